"""Kaggle as a host, through `kagglesdk`, the lower layer of its official client. Only this folder imports it."""

from kaggle_digits.hosts.kaggle.competition import KaggleHost as KaggleHost
from kaggle_digits.hosts.kaggle.kernels import CONTINUE as CONTINUE
from kaggle_digits.hosts.kaggle.kernels import SESSION_TIMEOUT as SESSION_TIMEOUT
from kaggle_digits.hosts.kaggle.kernels import KaggleKernels as KaggleKernels
from kaggle_digits.hosts.kaggle.kernels import KernelStatus as KernelStatus
