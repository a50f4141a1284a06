-- performer/check.lua: verification for users: are the gradients right, are two runs equal,
-- where did a number that is not finite arise? What
-- is held of models (streaming, bits, checkpoints) and of kernels stands in check_model.lua and
-- check_kernel.lua.
local core = require "performer.core"
local models = require "performer.check_model"
local util = require "performer.util"

local check = {
  streaming = models.streaming, bits = models.bits, saved = models.saved,
  kernel = require "performer.check_kernel",
}

--- Marks input `one` alone, or puts the marks back as they were.
local function mark(inputs, one, marks)
  for i, x in ipairs(inputs) do
    local yes = i == one
    if marks then yes = marks[i] end
    x:requires_grad(yes)
  end
end

local function check_inputs(f, inputs)
  if type(f) ~= "function" then
    util.fail("check.gradient: a function is needed, got %s", core.kind(f))
  end
  if core.kind(inputs) == "tensor" then inputs = { inputs } end
  if core.kind(inputs) == "module" then inputs = inputs:parameters() end
  if type(inputs) ~= "table" or #inputs == 0 then
    util.fail("check.gradient: a list of input tensors is needed, or a module for its parameters")
  end
  for i, x in ipairs(inputs) do
    if core.kind(x) ~= "tensor" or x:dtype() ~= "f32" then
      util.fail("check.gradient: input %d must be an f32 tensor, got %s", i, core.kind(x))
    end
  end
  return inputs
end

local function refuse(report)
  local lines = {}
  for i, entry in ipairs(report.inputs) do
    lines[i] = entry.judged == 0 and ("input %d: no direction could be judged"):format(i)
      or ("input %d: relative error %.3g"):format(i, entry.error)
  end
  util.fail("check.gradient: the gradient is wrong or can't be judged: %s",
    table.concat(lines, "; "))
end

--- Holds the gradient of f(inputs...) against central differences along random directions of
--- each input, or of each parameter where `inputs` is a module. Directions that float32 can't
--- resolve (a kink, no slope) are skipped; when nothing is left, that says nothing, and counts as
--- a failure. Returns a report {ok, worst, inputs = {{error, judged}}}; raises when `ok` is false,
--- unless options.raise is false. Options: tolerance (1e-2), seed (1), raise.
function check.gradient(f, inputs, options)
  options = util.check_options(options, { "tolerance", "seed", "raise" }, "check.gradient")
  inputs = check_inputs(f, inputs)
  local tolerance, marks = options.tolerance or 1e-2, {}
  for i, x in ipairs(inputs) do marks[i] = x:wants_grad() end
  local report, judged = { ok = true, worst = 0, inputs = {} }, 0
  -- luacheck: ignore 211
  local restore <close> = setmetatable({}, { __close = function() mark(inputs, nil, marks) end })
  for i = 1, #inputs do
    mark(inputs, i)
    local worst, count = core.gradcheck(f, inputs, options.seed or 1)
    report.inputs[i] = { error = worst, judged = count }
    judged = judged + count
    if count > 0 then report.worst = math.max(report.worst, worst) end
    if count > 0 and not (worst <= tolerance) then report.ok = false end -- luacheck: ignore 581
  end
  if judged == 0 then report.ok = false end
  if not report.ok and options.raise ~= false then refuse(report) end
  return util.shown(report, "report")
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

local SLICING = { "slices", "slice_length", "levels" }

--- A forward and a backward of the model on a batch, from gradients of 0.
local function walk(model, batch, pass, loss)
  model:clear_grad()
  pass = util.copy(pass or {})
  if pass.training == nil then pass.training = true end
  if pass.slice_length or (pass.slices or 1) > 1 then
    model:backward_sliced(batch, pass)
    return
  end
  for _, name in ipairs(SLICING) do pass[name] = nil end
  local tape <close> = core.tape()
  tape:backward(loss and loss(model(batch, pass), batch.target) or model:loss(batch, pass))
end

--- Runs a training step's forward and backward once more, with every op's inputs and results and
--- every gradient looked at, and says where the first number arose that is not finite: true, or
--- false, a message, and {step, layer, op, phase}. check.finite(model, batch [, pass [, loss]])
--- takes what the step took: the loss is loss(logits, batch.target), cross entropy where none is
--- given. check.finite(f [, {step =}]) runs a function that does both. Gradients of a model are
--- cleared; what else f raises passes through.
function check.finite(what, batch, pass, loss)
  local kind, step = core.kind(what), nil
  if kind == "function" then
    step = util.check_options(batch, { "step" }, "check.finite").step
  elseif kind == "module" and type(batch) == "table" then
    if pass ~= nil and type(pass) ~= "table" then
      util.fail("check.finite: pass must be a table, got %s", core.kind(pass))
    end
    step = pass and pass.step
  else
    util.fail("check.finite: a function, or a module and a batch, are needed; got %s and %s", kind,
      core.kind(batch))
  end
  core.finite_begin()
  local ran, problem = pcall(kind == "function" and what or walk, what, batch, pass, loss)
  if kind == "module" then what:clear_grad() end
  local fine, message, where = core.finite_end(step)
  if not fine then return false, message, util.shown(where, "place") end
  if not ran then error(problem, 0) end
  return true
end

return util.namespace(check, "pf.check")
