"""Write the JSON schema of report.json from the models of its parts."""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from kaggle_digits.reports import facts

PATH = Path(facts.__file__).with_name("report.schema.json")


class Generator(GenerateJsonSchema):
    """A generator that does not repeat the name of each field as its title."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: no field has a title."""
        return False


def schema() -> str:
    """Return the schema as JSON."""
    generated = facts.ReportFacts.model_json_schema(mode="serialization", schema_generator=Generator)
    names = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "report.json of kaggle-digits"}
    return json.dumps(names | {key: generated[key] for key in generated if key != "title"}, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema(), encoding="utf-8")
