-- performer/check_model.lua: what pf.check holds of a model or layer: streaming gives what the
-- parallel forward gives, bits depend on nothing that they must not depend on, and a checkpoint
-- brings all of it back.
--
-- A model of several inputs is given a batch, { input = x, NAME = tensor }, in the place of x.
-- Every check raises with what differs, where and by how much, or gives nil and that text with
-- {raise = false}.
local core = require "performer.core"
local layers = require "performer.nn"
local util = require "performer.util"

local check = {}

-- ---- what they share ----------------------------------------------------------------

--- A module, or a layer in Lua as one.
local function module_of(model, where)
  if core.kind(model) == "module" then return model end
  if type(model) == "table" then return layers.nn.module(model) end
  return util.fail("%s: a model or a layer is needed, got %s", where, core.kind(model))
end

--- A model with what it reads beside x: called with x alone, and with a state that has it.
local Bound = {}
Bound.__index = Bound

local function bind(model, beside)
  return setmetatable({ model = model, beside = beside }, Bound)
end

function Bound:__call(x)
  local pass = util.copy(self.beside)
  pass.training = false
  return self.model(x, pass)
end

function Bound:state(batch)
  local options = util.copy(self.beside)
  options.batch = batch
  return self.model:state(options)
end

--- The same of item b of B alone. What has another size is of all items, as a graph is.
function Bound:item(b, B)
  local beside = {}
  for name, t in pairs(self.beside) do
    local each = core.kind(t) == "tensor" and t:size(1) == B
    beside[name] = each and t:slice(1, b, b) or t
  end
  return bind(self.model, beside)
end

--- A bound model and x, from a tensor or a batch.
local function bind_input(model, input, where)
  local beside = {}
  model = module_of(model, where)
  if core.kind(input) ~= "table" then return bind(model, beside), input end
  for _, i in ipairs(model:inputs()) do beside[i.name] = input[i.name] end
  return bind(model, beside), input.input
end

--- Fails unless x is a tensor (B, L, ...) of at least `most` positions.
local function check_input(x, where, most)
  if core.kind(x) ~= "tensor" or x:rank() < 2 then
    util.fail("%s: an input (B, L, ...) is needed, got %s", where,
      core.kind(x) == "tensor" and tostring(x:shape()) or core.kind(x))
  end
  if x:size(1) < 1 or x:size(2) < most then
    util.fail("%s: the input is %s, but at least %d positions are needed", where,
      tostring(x:shape()), most)
  end
end

--- What a check found wrong: raised, or given back.
local function wrong(options, text, ...)
  text = text:format(...)
  if options.raise == false then return nil, text end
  return util.fail("%s", text)
end

--- The output of the parallel forward, (B, L, ...) as the input.
local function forward(model, x, where)
  local y = model(x):detach()
  if y:rank() < 2 or y:size(1) ~= x:size(1) or y:size(2) ~= x:size(2) then
    util.fail("%s: the output %s has no place for each position of the input %s", where,
      tostring(y:shape()), tostring(x:shape()))
  end
  return y
end

--- (B, L, ...) -> (B, ...), the numbers at position t.
local function position(x, t)
  local sizes = {}
  for i, size in ipairs(x:shape()) do
    if i ~= 2 then sizes[#sizes + 1] = size end
  end
  return x:slice(2, t, t):reshape(sizes)
end

--- The outputs of positions first .. last, step by step, (B, last - first + 1, ...).
local function steps(model, x, state, first, last)
  local out
  for t = first, last do
    local y = model.model:step(position(x, t), state):detach()
    local sizes = { table.unpack(y:shape()) }
    table.insert(sizes, 2, 1)
    y = y:reshape(sizes)
    out = out and core.op.concat({ out, y }, 2) or y
  end
  return out
end

--- max|a - b| of all their numbers, and how many differ; NaN differs from all but NaN.
local function gap(a, b)
  local x, y = a:reshape(-1):totable(), b:reshape(-1):totable()
  local worst, count = 0, 0
  for i = 1, #y do
    if x[i] ~= y[i] and (x[i] == x[i] or y[i] == y[i]) then
      local difference = math.abs(x[i] - y[i])
      if difference ~= difference then difference = math.huge end
      worst, count = math.max(worst, difference), count + 1
    end
  end
  return worst, count
end

--- max|a - b| / max|b|; infinite where one of them is not finite and the other is not the same.
local function distance(a, b)
  local off = gap(a, b)
  if off == 0 then return 0 end
  off = off / b:abs():max():item()
  return off == off and off or math.huge
end

--- nil where two tensors have the same bits, else what differs as text.
local function bits_differ(a, b)
  if tostring(a:shape()) ~= tostring(b:shape()) then
    return ("%s against %s"):format(tostring(a:shape()), tostring(b:shape()))
  end
  if a:tobytes() == b:tobytes() then return nil end
  local worst, count = gap(a, b)
  return ("%d of %d numbers differ, by up to %.3g"):format(count, b:numel(), worst)
end

--- A folder in memory that is gone when its scope ends.
local function folder()
  local path = "memory:check"
  core.file_remove(path) -- what a check that was cut short has left
  return setmetatable({ path = path }, { __close = function() core.file_remove(path) end })
end

--- Does a position see nothing that comes after it? As the options say, else the module's own.
local function is_causal(model, options)
  if options.causal ~= nil then return options.causal end
  local own = model.model:options()
  return not (own and own.causal == false)
end

-- ---- streaming ----------------------------------------------------------------------

--- Holds model:prefill of the first positions and model:step of the others against the parallel
--- forward of all, item by item. input (B, L, ...): ids, or what the layer takes. Returns the
--- largest difference, max|a - b| / max|b| of an item, which is to be at most `tolerance`.
--- Options prefill (half of the positions; 0: steps alone), tolerance (1e-5), raise.
function check.streaming(model, input, options)
  local where = "check.streaming"
  options = util.check_options(options, { "prefill", "tolerance", "raise" }, where)
  model, input = bind_input(model, input, where)
  check_input(input, where, 2)
  local B, L = input:size(1), input:size(2)
  local read, tolerance = options.prefill or L // 2, options.tolerance or 1e-5
  if math.type(read) ~= "integer" or read < 0 or read >= L then
    util.fail("%s: prefill is %s, but must be a whole number from 0 to %d", where, tostring(read),
      L - 1)
  end
  local whole, state = forward(model, input, where), model:state(B)
  local streamed = read > 0 and model.model:prefill(input:slice(2, 1, read), state):detach() or nil
  local stepped = steps(model, input, state, read + 1, L)
  streamed = streamed and core.op.concat({ streamed, stepped }, 2) or stepped
  local worst, place = 0, 1
  for b = 1, B do
    local item = whole:slice(1, b, b)
    local off = distance(streamed:slice(1, b, b), item)
    if off > worst then worst, place = off, b end
  end
  if worst <= tolerance then return worst end
  return wrong(options, "%s: after %d positions at once and %d steps, item %d is off by %.3g of " ..
    "its largest number from the parallel forward; at most %.3g is close", where, read, L - read,
    place, worst, tolerance)
end

-- ---- bits ---------------------------------------------------------------------------

--- x with other numbers after position t; ids stay among those that x has.
local function changed_after(x, t)
  local tail = x:slice(2, t + 1, -1):detach()
  if x:dtype() == "f32" then return core.op.concat({ x:slice(2, 1, t), -tail - 1 }, 2) end
  local ids, most = tail:reshape(-1):totable(), 0
  for _, id in ipairs(x:reshape(-1):totable()) do most = math.max(most, id) end
  for i, id in ipairs(ids) do ids[i] = most - id end
  local other = core.tensor(ids, { dtype = "i32" }):reshape(tail:shape())
  return core.op.concat({ x:slice(2, 1, t), other }, 2)
end

--- What comes after position t, other numbers or nothing, must not be seen at 1 .. t.
local function after_differs(model, x, y, t)
  local before = y:slice(2, 1, t):detach()
  local other = changed_after(x, t)
  if other:tobytes() == x:detach():tobytes() then
    util.fail("check.bits: all ids of the input are alike, so nothing can be changed in it")
  end
  local why = bits_differ(model(other):slice(2, 1, t):detach(), before)
  if why then return ("after position %d are changed: %s"):format(t, why) end
  local short = x:slice(2, 1, t)
  why = bits_differ(model(short):detach(), before)
  return why and ("after position %d are cut off: %s"):format(t, why)
end

--- Holds the promises about bits: the same call twice, every item alone as in the batch, and, of
--- what is causal, outputs up to a position whatever comes after it. input (B, L, ...): ids, or
--- what the layer takes. Returns true. Options causal (the module's own option, else true),
--- at (positions after which the input is changed; the first, the middle, the last but one),
--- raise.
function check.bits(model, input, options)
  local where = "check.bits"
  options = util.check_options(options, { "causal", "at", "raise" }, where)
  model, input = bind_input(model, input, where)
  check_input(input, where, 2)
  local B, L, y = input:size(1), input:size(2), forward(model, input, where)
  local why = bits_differ(forward(model, input, where), y)
  if why then return wrong(options, "%s: the same call twice: %s", where, why) end
  for b = 1, B > 1 and B or 0 do
    local alone = forward(model:item(b, B), input:slice(1, b, b), where)
    why = bits_differ(alone, y:slice(1, b, b):detach())
    if why then
      return wrong(options, "%s: item %d alone is not what it is in the batch: %s", where, b, why)
    end
  end
  if not is_causal(model, options) then return true end
  for _, t in ipairs(options.at or { 1, math.max(L // 2, 1), L - 1 }) do
    if math.type(t) ~= "integer" or t < 1 or t >= L then
      util.fail("%s: at is a list of positions from 1 to %d, got %s", where, L - 1, tostring(t))
    end
    why = after_differs(model, input, y, t)
    if why then
      return wrong(options, "%s: outputs see what comes after them: inputs %s (for a model that " ..
        "is to look ahead give {causal = false})", where, why)
    end
  end
  return true
end

-- ---- checkpoints --------------------------------------------------------------------

--- What differs between the tensors of a model and of what was loaded, or nil.
local function tensors_differ(model, loaded)
  local had, has = model:tensors(), loaded:tensors()
  for name, tensor in util.sorted(had) do
    if not has[name] then return ("'%s' is gone"):format(name) end
    local why = bits_differ(has[name], tensor)
    if why then return ("'%s': %s"):format(name, why) end
  end
  for name in util.sorted(has) do
    if not had[name] then return ("'%s' was not there before"):format(name) end
  end
end

--- What differs when a state is saved in the middle and goes on in the loaded model, or nil.
local function stream_differs(model, loaded, x, path)
  local B, L = x:size(1), x:size(2)
  local state, middle = model:state(B), L // 2
  model.model:prefill(x:slice(2, 1, middle), state)
  assert(state:save(path))
  local there, message = loaded.model:load_state(path)
  if not there then return message end
  return bits_differ(steps(loaded, x, there, middle + 1, L),
    steps(model, x, state, middle + 1, L))
end

--- Saves the model as a checkpoint, loads it, and holds what came back against it: the tensors,
--- the output for the input, and a state that is saved in the middle of the input; all bit by bit.
--- Layers in Lua must be known by name (nn.define). Returns true. Options stream (as causal in
--- check.bits: leave out streaming with false), raise.
function check.saved(model, input, options)
  local where = "check.saved"
  options = util.check_options(options, { "stream", "raise" }, where)
  model, input = bind_input(model, input, where)
  check_input(input, where, 2)
  local place <close> = folder()
  assert(core.checkpoint_save(place.path, { model = model.model }))
  local read, message = core.model_load(place.path)
  if not read then return wrong(options, "%s: it can't be loaded: %s", where, message) end
  local loaded = bind(read, model.beside)
  local why = tensors_differ(model.model, read)
  if why then return wrong(options, "%s: the loaded model has other tensors: %s", where, why) end
  why = bits_differ(forward(loaded, input, where), forward(model, input, where))
  if why then
    return wrong(options, "%s: the loaded model has the same tensors, but another output (is " ..
      "something that it needs no tensor?): %s", where, why)
  end
  if not is_causal(model, { causal = options.stream }) then return true end
  why = stream_differs(model, loaded, input, place.path .. "/stream")
  if why then
    return wrong(options, "%s: a state saved in the middle goes on differently: %s", where, why)
  end
  return true
end

return check
