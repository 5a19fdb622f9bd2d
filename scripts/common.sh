# Sourced by the other scripts: the repository root as working directory, the tools of .venv first, and the number of
# build jobs (UNIGRPO_JOBS, default: all cores).
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export PATH="$root/.venv/bin:$PATH"
jobs=${UNIGRPO_JOBS:-$(nproc)}
