-- performer/check.lua: verification for users: are the gradients right, are two runs equal?
local core = require "performer.core"
local util = require "performer.util"

local check = {}

--- A stable pseudo-random number in (-1, 1) for element i of purpose p: the checks must not
--- use up random numbers of the script they check.
local function noise(p, i)
  local x = (i * 2654435761 + p * 40503 + 12345) & 0xffffffff
  x = (x ~ (x >> 16)) * 0x45d9f3b & 0xffffffff
  x = (x ~ (x >> 16)) * 0x45d9f3b & 0xffffffff
  x = x ~ (x >> 16)
  return (x + 0.5) / 2147483648 - 1
end

local function direction(t, p)
  local values = {}
  for i = 1, t:numel() do values[i] = noise(p, i) end
  return core.tensor(values):reshape(t:shape())
end

--- Sum of output elements times fixed weights, in double.
local function weighted(outputs)
  local sum = 0
  for o, t in ipairs(outputs) do
    local values = t:reshape(-1):totable()
    for i = 1, #values do sum = sum + noise(1000 + o, i) * values[i] end
  end
  return sum
end

local function pack_tensors(...)
  local outputs = {}
  for _, value in ipairs { ... } do
    if core.kind(value) == "tensor" then outputs[#outputs + 1] = value end
  end
  if #outputs == 0 then util.fail("check.gradient: the function must return a tensor") end
  return outputs
end

--- d(weighted outputs)/d(input) along u for every input, by the tape.
local function analytic(f, inputs, directions)
  for _, x in ipairs(inputs) do x:clear_grad() end
  do
    local tape <close> = core.tape()
    local loss
    for o, t in ipairs(pack_tensors(f(table.unpack(inputs)))) do
      local weights = {}
      for i = 1, t:numel() do weights[i] = noise(1000 + o, i) end
      local part = (t:reshape(-1) * core.tensor(weights)):sum()
      loss = loss and loss + part or part
    end
    tape:backward(loss)
  end
  local slopes = {}
  for i, x in ipairs(inputs) do
    local grad = x:grad()
    local slope, size = 0, 0
    if grad then
      local g, u = grad:reshape(-1):totable(), directions[i]:reshape(-1):totable()
      for e = 1, #g do slope, size = slope + g[e] * u[e], size + math.abs(g[e] * u[e]) end
    end
    slopes[i] = { value = slope, size = size }
    x:clear_grad()
  end
  return slopes
end

--- Central difference along u with step h; x is put back as it was.
local function difference(f, inputs, i, u, h)
  local x, kept = inputs[i], inputs[i]:detach()
  local moved = kept + u * h
  x:copy_(moved)
  local up = weighted(pack_tensors(f(table.unpack(inputs))))
  x:copy_(kept - u * h)
  local down = weighted(pack_tensors(f(table.unpack(inputs))))
  x:copy_(kept)
  return (up - down) / (2 * h)
end

--- Compares the gradient of f(inputs...) with central differences along a random direction
--- for every f32 input. Two step sizes tell an unreliable difference (a kink, too much
--- rounding) from a wrong gradient: that input is reported as skipped. Returns a report
--- {ok, worst, inputs = {{analytic, numeric, error, skipped}}}; raises when `ok` is false,
--- unless options.raise is false. Options: tolerance (1e-2), step (1e-2), raise.
function check.gradient(f, inputs, options)
  options = util.check_options(options, { "tolerance", "step", "raise" }, "check.gradient")
  if type(f) ~= "function" then
    util.fail("check.gradient: a function is needed, got %s", core.kind(f))
  end
  if core.kind(inputs) == "tensor" then inputs = { inputs } end
  if type(inputs) ~= "table" or #inputs == 0 then
    util.fail("check.gradient: a list of input tensors is needed")
  end
  local tolerance, h = options.tolerance or 1e-2, options.step or 1e-2
  local marked, directions = {}, {}
  for i, x in ipairs(inputs) do
    if core.kind(x) ~= "tensor" or x:dtype() ~= "f32" then
      util.fail("check.gradient: input %d must be an f32 tensor, got %s", i, core.kind(x))
    end
    marked[i] = x:wants_grad()
    x:requires_grad()
    directions[i] = direction(x, i)
  end
  local slopes = analytic(f, inputs, directions)
  local report = { ok = true, worst = 0, inputs = {} }
  for i = 1, #inputs do
    local wide = difference(f, inputs, i, directions[i], h)
    local narrow = difference(f, inputs, i, directions[i], h / 2)
    local numeric = (4 * narrow - wide) / 3
    local size = math.max(slopes[i].size, math.abs(numeric), 1e-6)
    local entry = {
      analytic = slopes[i].value, numeric = numeric,
      error = math.abs(slopes[i].value - numeric) / size,
      skipped = math.abs(wide - narrow) > 0.25 * size or numeric ~= numeric,
    }
    if not entry.skipped then
      report.worst = math.max(report.worst, entry.error)
      if entry.error > tolerance or entry.error ~= entry.error then report.ok = false end
    end
    report.inputs[i] = entry
    inputs[i]:requires_grad(marked[i])
  end
  if not report.ok and options.raise ~= false then
    local lines = {}
    for i, entry in ipairs(report.inputs) do
      lines[i] = ("input %d: analytic %.6g, numeric %.6g, relative error %.3g%s"):format(i,
        entry.analytic, entry.numeric, entry.error, entry.skipped and " (skipped)" or "")
    end
    util.fail("check.gradient: the gradient is wrong: %s", table.concat(lines, "; "))
  end
  return report
end

local function bits(...)
  local parts = {}
  for i, value in ipairs { ... } do
    parts[i] = core.kind(value) == "tensor" and value:tobytes() or tostring(value)
  end
  return parts
end

--- Runs f() `times` times (2) and compares every result bit by bit; true, or raises with the
--- first result that differs.
function check.deterministic(f, times)
  if type(f) ~= "function" then
    util.fail("check.deterministic: a function is needed, got %s", core.kind(f))
  end
  local first = bits(f())
  if #first == 0 then util.fail("check.deterministic: the function must return something") end
  for run = 2, times or 2 do
    local again = bits(f())
    for i = 1, math.max(#first, #again) do
      if first[i] ~= again[i] then
        util.fail("check.deterministic: result %d of run %d differs from the first run", i, run)
      end
    end
  end
  return true
end

return util.namespace(check, "pf.check")
