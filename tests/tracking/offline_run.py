"""W&B's offline run files, read back."""

import json
import struct
import time

import pytest


def read_offline_run(folder):
    """Records of a .wandb file: LevelDB's log format around protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, position, part = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(part)
            part = b""


def finished_offline_run(folder):
    """All records, once the one that closes the run is there; W&B's service writes on its own."""
    for _ in range(100):
        records = list(read_offline_run(folder))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    pytest.fail("the run was never finished")


def items(update):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}
