# Sourced by the Makefile before a build. Debian and Ubuntu keep Python.h in a package that a machine with Python and venv may
# lack: then its headers are unpacked into the virtual environment, which needs no root, and the compiler and CMake are told where they are.
include=$("$VENV"/bin/python -c 'import sysconfig; print(sysconfig.get_config_var("INCLUDEPY"))')
if [ ! -e "$include/Python.h" ]; then
  package="lib$(basename "$include")-dev"
  headers="$PWD/$VENV/headers"
  echo "Python.h is missing; unpacking $package into $VENV/headers"
  mkdir -p "$headers"
  if ! (cd "$headers" && apt-get download -qq "$package" && dpkg -x "$package"_*.deb .) 2>/dev/null; then
    echo "error: Python.h is missing; on Debian and Ubuntu: sudo apt install python3-dev" >&2
    exit 1
  fi
  export CPATH="$headers/usr/include"
  export CMAKE_ARGS="-DPython_INCLUDE_DIR=$headers$include ${CMAKE_ARGS:-}"
fi
