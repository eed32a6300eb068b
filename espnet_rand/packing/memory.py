"""Free memory."""

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left: of a GPU its own memory, else the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
