#!/bin/sh
# Every ablation: the command line is the documentation. Interrupt and run again as you like.
set -e
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python}

run() { # name, then --set values
    name=$1; shift
    "$PYTHON" -m harness run --matrix grids/studies/ablation.yaml --set "name=ablation-$name" "$@"
}

run base
run steps-1 --set 'axes.objective=[{name: ctm, params: {steps: 1}}]'
run steps-4 --set 'axes.objective=[{name: ctm, params: {steps: 4}}]'
run no-dsm --set 'axes.objective=[{name: ctm, params: {dsm_weight: 0}}]'
run local --set 'axes.objective=[{name: ctm, params: {project: false}}]'
run cd --set 'axes.objective=[cd]'
run ema-0.9 --set train.ema=0.9
run ema-0.999 --set train.ema=0.999
run batch-64 --set train.batch=64
run lr-3e-4 --set train.lr=3.0e-4
run lr-3e-3 --set train.lr=3.0e-3
run random-init --set train.init=random
run width-16 --set backbone.width=16
run width-256 --set backbone.width=256
