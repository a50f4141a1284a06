-- support/init.lua - what the specs share: assertions on tensors, temporary files, and the
-- program under test. `require "spec.support"`.
local assert = require "luassert"
local lfs = require "lfs"
local say = require "say"
local pf = require "performer"

local support = {}

--- The folder of the build under test, as in .busted; whole, for commands that go elsewhere.
support.build = os.getenv "PF_BUILD" or "build/release"
if not support.build:find "^/" then support.build = lfs.currentdir() .. "/" .. support.build end

--- Whether it runs under a sanitizer, whose library has to be a process's first.
support.sanitized = support.build:match "[^/]*$":find "san" ~= nil

-- ---- assertions ---------------------------------------------------------------------

local function numbers(value)
  if pf.kind(value) == "tensor" then return value:reshape(-1):totable(), value:shape() end
  local flat, shape = {}, {}
  local function walk(t, depth)
    if type(t) ~= "table" then flat[#flat + 1] = t return end
    shape[depth] = #t
    for _, entry in ipairs(t) do walk(entry, depth + 1) end
  end
  walk(value, 1)
  return flat, shape
end

--- max|a - b| / max|b|, or a text that says why they can't be compared.
function support.distance(a, b)
  local x, sx = numbers(a)
  local y, sy = numbers(b)
  if table.concat(sx, ",") ~= table.concat(sy, ",") then
    return nil, ("shapes [%s] and [%s]"):format(table.concat(sx, ", "), table.concat(sy, ", "))
  end
  local worst, size = 0, 0
  for i = 1, #y do
    local gap = math.abs(x[i] - y[i])
    if x[i] == y[i] or (x[i] ~= x[i] and y[i] ~= y[i]) then gap = 0 end
    if gap ~= gap then return nil, ("element %d is %s, not %s"):format(i, x[i], y[i]) end
    worst, size = math.max(worst, gap), math.max(size, math.abs(y[i]))
  end
  return size > 0 and worst / size or worst
end

--- assert.near_tensor(expected, actual [, tolerance = 1e-6]): expected is a tensor or a table.
local function near_tensor(state, arguments)
  local tolerance = arguments[3] or 1e-6
  local distance, why = support.distance(arguments[2], arguments[1])
  if distance and distance <= tolerance then return true end
  state.failure_message = why or
    ("the tensors differ by %.3g of the largest value, allowed is %.3g"):format(distance, tolerance)
  return false
end

--- assert.bits_equal(a, b): the same shape, dtype and bits.
local function bits_equal(state, arguments)
  local a, b = arguments[1], arguments[2]
  local same_form = tostring(a:shape()) == tostring(b:shape()) and a:dtype() == b:dtype()
  if same_form and a:tobytes() == b:tobytes() then return true end
  state.failure_message = same_form
    and ("the bits differ; the largest gap is %s of the largest value")
      :format(tostring(support.distance(a, b)))
    or ("%s %s against %s %s"):format(tostring(a:shape()), a:dtype(), tostring(b:shape()),
      b:dtype())
  return false
end

--- assert.raises(pattern, f): f raises, and its message has the pattern.
local function raises(state, arguments)
  local pattern, f = arguments[1], arguments[2]
  local ok, message = pcall(f)
  if ok then
    state.failure_message = "an error was expected, with: " .. pattern
    return false
  end
  if tostring(message):find(pattern) then return true end
  state.failure_message = ("the error does not match '%s': %s"):format(pattern, tostring(message))
  return false
end

for name, check in pairs { near_tensor = near_tensor, bits_equal = bits_equal, raises = raises } do
  say:set("assertion." .. name .. ".positive", "expected " .. name .. "\n%s\n%s")
  say:set("assertion." .. name .. ".negative", "expected not " .. name .. "\n%s\n%s")
  assert:register("assertion", name, check, "assertion." .. name .. ".positive",
    "assertion." .. name .. ".negative")
end

-- ---- files and programs -------------------------------------------------------------

--- A fresh folder; the caller removes it with support.remove (finally).
function support.folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute(("mkdir -p '%s'"):format(path)))
  return path
end

function support.remove(path)
  assert(path:match "^/tmp/" and #path > 8)
  os.execute(("rm -rf '%s'"):format(path))
end

function support.write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

function support.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

--- Runs a shell command; exit code, stdout, stderr.
function support.shell(command)
  local out, err = os.tmpname(), os.tmpname()
  local _, _, code = os.execute(("( %s ) >%s 2>%s </dev/null"):format(command, out, err))
  local stdout, stderr = support.read(out), support.read(err)
  os.remove(out)
  os.remove(err)
  return code, stdout, stderr
end

--- Compiles a C file to a shared library: without what the specs themselves are loaded with.
function support.library(library, source, more)
  local code, _, err = support.shell(("env -u LD_PRELOAD cc -shared -fPIC -o %s %s %s"):format(
    library, source, more or ""))
  assert.equal(0, code, err)
end

--- Runs the program under test with arguments (shell words).
function support.performer(arguments)
  return support.shell(("%s/bin/performer %s"):format(support.build, arguments))
end

return support
