#!/usr/bin/env bash
# Builds Horovod against the torch of an environment: scripts/install_horovod.sh [PYTHON]
# PYTHON: the interpreter of that environment; without it, that of the active environment, else that of .venv.
# gloo is always built in; MPI where mpicxx is installed (mpicc --showme tells which one); NCCL where torch has CUDA and
# nvcc and nccl.h are installed: nobody has run that yet. Takes 3 to 10 minutes. MAKEFLAGS=-jN: compile N files at once.
set -euo pipefail
version=0.28.1
sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0
build_tools=("setuptools==80.9.0" "wheel==0.45.1")                                   # needed here only
run_time=("cloudpickle==3.1.2" "psutil==7.1.3" "pyyaml" "cffi==2.0.0" "packaging")   # what Horovod imports

fail() {
    echo "error: $1" >&2
    echo "  remedy:   $2" >&2
    exit 2
}

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -n "${1:-}" ]; then python="$1"
elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || [ ! -x "$checkout/.venv/bin/python" ]; then python=python3
else python="$checkout/.venv/bin/python"
fi
python="$(command -v "$python")" || fail "there is no Python named ${1:-python3}" "name the environment's interpreter"

for tool in cmake make c++; do
    command -v "$tool" >/dev/null ||
        fail "$tool is not installed, and Horovod is built from source" "on Debian and Ubuntu: apt-get install cmake make g++"
done
header="$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h"
[ -f "$header" ] || fail "the headers of Python are not installed: $header" "on Debian and Ubuntu: apt-get install python3-dev"
torch="$(cd / && "$python" -c 'import torch; print(torch.__version__, torch.version.cuda or "cpu")')" ||
    fail "$python cannot import torch" "install it first: $python -m pip install -r requirements.txt"

export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1
export CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="${MAKEFLAGS:--j$(nproc)}" # the sources are older than cmake 4
if command -v mpicxx >/dev/null && command -v mpicc >/dev/null; then
    export HOROVOD_WITH_MPI=1
    mpi="yes, $(readlink -f "$(command -v mpicxx)")"
else
    export HOROVOD_WITHOUT_MPI=1
    mpi="no, there is no mpicxx"
fi
nccl="no"
if [ "${torch##* }" != cpu ] && command -v nvcc >/dev/null; then
    for folder in "${HOROVOD_NCCL_HOME:-/usr}" "${CUDA_HOME:-/usr/local/cuda}" /usr; do
        if [ -f "$folder/include/nccl.h" ]; then
            export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_HOME="$folder"
            nccl="yes, $folder (unverified)"
            break
        fi
    done
fi
echo "Horovod $version for $python, torch $torch; gloo: yes; MPI: $mpi; NCCL: $nccl"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
pip=("$python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install "${run_time[@]}"
"${pip[@]}" install --target "$work/tools" "${build_tools[@]}"
export PYTHONPATH="$work/tools" # setuptools 81 and later cannot build it, and the environment keeps its own
echo "horovod==$version --hash=sha256:$sha256" >"$work/source.txt"
"${pip[@]}" download --no-deps --no-binary horovod --no-build-isolation --require-hashes -r "$work/source.txt" -d "$work"
tar -xzf "$work/horovod-$version.tar.gz" -C "$work"
cd "$work/horovod-$version"
for file in CMakeLists.txt horovod/torch/CMakeLists.txt; do # torch's headers are C++17
    grep -q 'set(CMAKE_CXX_STANDARD 14)' "$file" || fail "the source is not as expected: $file" "report it"
    sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 17)/' "$file"
done
"${pip[@]}" install --no-build-isolation --no-deps --force-reinstall . ||
    fail "the build has failed" "see the compiler's messages above; less memory: MAKEFLAGS=-j1 $0"
unset PYTHONPATH
cd /
"$python" - <<'EOF'
import horovod.torch as hvd

print(f"Horovod is installed. gloo: {hvd.gloo_built()}, MPI: {hvd.mpi_built()}, NCCL: {bool(hvd.nccl_built())}")
EOF
