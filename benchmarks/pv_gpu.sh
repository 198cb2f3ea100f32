#!/bin/sh
# Compare fine-tuning with and without changing codes at equal steps (method=crvq_1bit).
#
#   sh benchmarks/pv_gpu.sh RESULTS SEED STAGES [OVERRIDES...]
#   sh benchmarks/pv_gpu.sh /tmp/pv 0 "block pv_block block_e2e pv_e2e"
#
# The runs of a seed share the GPU: a small model leaves most of it idle. Their times are hence not
# comparable; steps are equal. One line per run at the end: perplexity and changed codes.
set -u
results=$1 seed=$2 stages=$3
shift 3
mkdir -p "$results"
for stage in $stages; do
    python run.py method=crvq_1bit "seed=$seed" "finetune=$stage" tracking=disabled \
        "results_dir=$results/$stage-$seed" "$@" >"$results/$stage-$seed.log" 2>&1 &
done
wait
python - "$results" <<'END'
import json, pathlib, sys

for file in sorted(pathlib.Path(sys.argv[1]).rglob("record.json")):
    record = json.loads(file.read_text())
    record = record.get("content", record)
    tuned = record.get("finetune") or {}
    print(
        file.parts[-4],
        {name: round(one["quantized"], 2) for name, one in record["perplexity"].items()},
        {stage: part.get("changed_codes") for stage, part in tuned.items()},
        {name: round(seconds) for name, seconds in record["seconds"].items()},
        flush=True,
    )
END
