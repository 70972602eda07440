#!/usr/bin/env bash
# Everything that needs a graphics card, in under ten minutes: bash benchmarks/gpu.sh [python] [seconds for all]
#
# The tests marked gpu, the agreement tests of the Triton kernel natively, the fuzz of every mode natively, the benchmarks.
# Figures, with the card's name in them and in their names, go to benchmarks/results/gpu-<card>.json; logs to out/gpu/.
# Exit code 0: all passed; 1: something failed (the summary says what); 3: no GPU here, and nothing was run.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${1:-python3}
end=$((SECONDS + ${2:-570}))
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" OMP_WAIT_POLICY=PASSIVE
unset TRITON_INTERPRET

card=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")') || exit 1
if [ -z "$card" ]; then
    echo "no GPU that torch can use here: nothing was run or measured"
    exit 3
fi
if ! "$python" -c 'import triton' 2>/dev/null; then
    echo "a GPU ($card), but no Triton: pip install 'overq[gpu]'"
    exit 1
fi
mkdir -p out/gpu
echo "card: $card"
failed=""

step() { # name, seconds it is thought to take, most seconds, command…
    local name=$1 most=$3 left=$((end - SECONDS)) begin=$SECONDS code
    echo "$name: about $2 s, at most $((left < most ? left : most)) s, of $left s left"
    shift 3
    if [ "$left" -lt 5 ]; then
        failed="$failed $name(no time left)"
        return
    fi
    timeout "$((left < most ? left : most))" "$@" >"out/gpu/$name.log" 2>&1
    code=$?
    tail -n 4 "out/gpu/$name.log" | sed "s/^/    /"
    echo "$name: exit code $code after $((SECONDS - begin)) s$([ $code = 124 ] && echo ', its time was up')"
    [ $code = 0 ] || failed="$failed $name"
}

# The seconds are estimates from the CPU's times and a card's bandwidth; no card has run this yet, so correct them with what it prints.
# First what may be cut short least: figures, then proofs; each has its share, and what one leaves the next may use.
step benchmarks 110 150 "$python" benchmarks/gpu.py
step kernels 60 90 "$python" benchmarks/kernels.py --quick
step tests 80 130 "$python" -m pytest -q -m gpu -p no:cacheprovider tests
step agreement 60 100 "$python" -m pytest -q -m "not slow" -p no:cacheprovider tests/agreement/test_backends.py tests/kernels -k "triton or kernels"
step fuzz 60 120 "$python" -m overq.kernels.fuzz --backend triton --vectors 2e4 --state out/gpu/fuzz.json

if [ -n "$failed" ]; then
    echo "FAILED on $card:$failed (logs: out/gpu)"
    exit 1
fi
echo "all passed on $card in $SECONDS s"
