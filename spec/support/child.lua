-- child.lua - runs a piece of Lua in a process of its own, because an engine's thread count
-- and CPU level are fixed when it opens. The piece gets `pf` and `array` and prints what it
-- wants compared.
local child = {}

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

--- Runs `code` with the environment entries in `env` ({PF_CPU = "avx2"}; false unsets) after
-- pf.open(options) with `options` as Lua text. Returns what it printed; raises when it fails.
function child.run(code, options, env)
  local file = os.tmpname()
  local script = assert(io.open(file, "w"))
  script:write("package.path, package.cpath = ", ("%q, %q"):format(package.path, package.cpath),
    "\nlocal pf = require 'performer'\npf.open", options or "{}",
    "\nlocal array = require 'spec.support.array'\n", code, "\n")
  script:close()
  local words = { "env" }
  for name, value in pairs(env or {}) do
    words[#words + 1] = value and quote(name .. "=" .. value) or "-u " .. quote(name)
  end
  words[#words + 1] = "lua5.4 " .. quote(file) .. " 2>&1"
  local pipe = assert(io.popen(table.concat(words, " ")))
  local text = pipe:read "a"
  local fine = pipe:close()
  os.remove(file)
  if not fine then error("the child process failed: " .. text, 2) end
  return text
end

return child
