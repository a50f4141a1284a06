--- machine.lua - on what a run was made: what its log says of program, processor and system.
local pf = require "performer"

local machine = {}

--- The first thing that `pattern` finds in a file; nil: none.
local function found(path, pattern)
  local file = io.open(path, "r")
  local text = file and file:read "a"
  if file then file:close() end
  return text and text:match(pattern)
end

--- { version, lua, cpu, level, threads, blas, system, memory }; what can't be told is left out.
function machine.describe()
  local info = pf.info()
  local kilobytes = tonumber(found("/proc/meminfo", "MemTotal:%s*(%d+) kB"))
  return { version = info.version, lua = _VERSION, level = info.cpu_name, threads = info.threads,
           blas = info.blas, cpu = found("/proc/cpuinfo", "model name%s*:%s*([^\n]+)"),
           system = found("/etc/os-release", 'PRETTY_NAME="?([^"\n]+)'),
           kernel = found("/proc/sys/kernel/osrelease", "[^\n]+"),
           memory = kilobytes and math.tointeger(kilobytes * 1024) }
end

return machine
