# Sourced by the other scripts: the repository root as working directory, the tools of .venv first, ccache
# settings that fit the precompiled header, and the number of build jobs (UNIGRPO_JOBS, default: all cores).
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export PATH="$root/.venv/bin:$PATH"
export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
jobs=${UNIGRPO_JOBS:-$(nproc)}
