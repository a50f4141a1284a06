-- performer/loss.lua: model:loss(batch): what a model's outputs are held against, a task at a time.
--
-- What kind of loss it is the target says: ids (i32) are classes, numbers (f32) are estimated. A
-- class that does not count is -1; an estimate that does not is one of a position that the batch's
-- mask hides.
local choices = require "performer.choices"
local core = require "performer.core"
local util = require "performer.util"

local Module = core.methods("performer.module")
local op = core.op

--- The Huber loss of a - b, element by element: d^2 / 2 up to |d| = delta, straight from there on.
--- With c = min(|d|, delta) it is c (|d| - c / 2).
local function huber(a, b, delta)
  local d = (a - b):abs()
  local c = -(op.maximum(-d, core.full({ 1 }, -delta)))
  return c * (d - c * 0.5)
end

local function same_sizes(a, b, n)
  if #a < n or #b < n then return false end
  for i = 1, n do
    if a[i] ~= b[i] then return false end
  end
  return true
end

--- The estimates y in the target's shape.
local function estimates(name, y, target)
  local a, b = y:shape(), target:shape()
  if #a == #b + 1 and a[#a] == 1 and same_sizes(a, b, #b) then return y:reshape(b) end
  if #a == #b and same_sizes(a, b, #b) then return y end
  util.fail("loss: the output is %s, the target %s%s", tostring(a), tostring(b),
    name == "target" and "" or (" of '%s'"):format(name))
end

--- The mean of `each` (B, L, ...) over the positions that the mask (B, L) keeps; of none 0.
local function mean_there(each, mask)
  local there = core.tensor({ { 0 }, { 1 } }):embedding(mask)
  local kept = there:sum():item()
  if each:rank() == 2 then there = there:reshape(mask:shape()) end
  return (each * there):sum() * (kept > 0 and mask:numel() / (kept * each:numel()) or 0)
end

--- Ids, of estimates: one number a position is no choice between classes.
local function refuse_ids(target)
  util.fail("loss: the target %s is i32, ids of classes, but the output is estimates; give f32",
    tostring(target:shape()))
end

--- The loss of one output; classes are counted where the target is not -1, estimates of positions
--- where the mask has them.
local function loss_of(name, y, target, delta, mask)
  if core.kind(target) ~= "tensor" then
    util.fail("loss: the target of '%s' must be a tensor, got %s", name, core.kind(target))
  end
  if target:dtype() == "i32" then
    if y:rank() > 0 and y:size(-1) == 1 then refuse_ids(target) end
    return y:cross_entropy(target)
  end
  local hides = mask and y:rank() == 3 and same_sizes(y:shape(), mask:shape(), 2)
  y = estimates(name, y, target)
  if not delta and not hides then return y:mean_square(target) end
  local each = delta and huber(y, target, delta) or (y - target):square()
  return hides and mean_there(each, mask) or each:mean()
end

local function finite(value) return type(value) == "number" and math.abs(value) < math.huge end

local function check_options(weights, delta)
  if delta and not (finite(delta) and delta > 0) then
    util.fail("loss: huber must be a number above 0, got %s", tostring(delta))
  end
  if weights and type(weights) ~= "table" then
    util.fail("loss: weights is a table {TASK = number}, got %s", core.kind(weights))
  end
  for name, weight in pairs(weights or {}) do
    if not finite(weight) then
      util.fail("loss: the weight of '%s' must be a finite number, got %s", tostring(name),
        tostring(weight))
    end
  end
end

--- Options of the loss, and the rest, which is the pass of the call.
local function split(options)
  local pass = {}
  for key, value in pairs(util.copy(options or {})) do
    if key ~= "weights" and key ~= "huber" then pass[key] = value end
  end
  local weights, delta = options and options.weights, options and options.huber
  check_options(weights, delta)
  return pass, weights or {}, delta
end

local cross_entropy = Module.loss -- in pieces, where logits are many

local function check(batch)
  if type(batch) ~= "table" then
    util.fail("loss: a batch is a table {input, target}, got %s", core.kind(batch))
  end
end

--- Of the call; nil: none.
local function mask_of(batch, pass)
  local mask = pass.mask or batch.mask
  return core.kind(mask) == "tensor" and mask:rank() == 2 and mask or nil
end

--- The loss of every task that the batch has a target of.
local function losses_of(model, batch, pass, delta)
  local outputs, losses = model:outputs(batch, pass), {}
  for _, name in ipairs(util.sorted_keys(batch.targets)) do
    if not outputs[name] then
      util.fail("loss: the model has no task '%s'%s", name,
        choices.near(name, util.sorted_keys(outputs)))
    end
    losses[name] = loss_of(name, outputs[name], batch.targets[name], delta, mask_of(batch, pass))
  end
  if not next(losses) then util.fail("loss: the batch has no target of any task") end
  return losses
end

--- The sum by weight, 1 where none is said.
local function sum(losses, weights)
  local total
  for _, name in ipairs(util.sorted_keys(weights)) do
    if not losses[name] then
      util.fail("loss: there is a weight of '%s', but no target of it", name)
    end
  end
  for _, name in ipairs(util.sorted_keys(losses)) do
    local part = losses[name] * (weights[name] or 1)
    total = total and total + part or part
  end
  return total
end

--- The loss of one output.
local function loss_of_target(model, batch, pass, delta)
  local target = batch.target
  local ids = core.kind(target) == "tensor" and target:dtype() == "i32"
  if ids and model:type() == "regressor" then refuse_ids(target) end
  local rows = core.kind(target) ~= "tensor" or ids and target:rank() > 1
  if rows then return cross_entropy(model, batch, pass) end
  return loss_of("target", model(batch, pass), target, delta, mask_of(batch, pass))
end

--- The loss of a batch: of one task by batch.target, of several by batch.targets = {task = tensor},
--- each times its weight in `weights` (1). A task without a target in this batch is left out. Of
--- estimates mean square, or with huber = delta Huber's, over the positions that the mask has. What
--- else stands in the options is the pass.
function Module:loss(batch, options)
  check(batch)
  local pass, weights, delta = split(options)
  if not batch.targets then return loss_of_target(self, batch, pass, delta) end
  return sum(losses_of(self, batch, pass, delta), weights)
end

--- The same, {task = its loss}: to be looked at, or summed in another way.
function Module:losses(batch, options)
  check(batch)
  local pass, _, delta = split(options)
  if batch.targets then return losses_of(self, batch, pass, delta) end
  return { target = loss_of_target(self, batch, pass, delta) }
end
