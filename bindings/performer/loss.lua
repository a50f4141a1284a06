-- performer/loss.lua: model:loss(batch): what a model's outputs are held against, a task at a time.
--
-- What kind of loss it is the target says: ids (i32) are classes, numbers (f32) are estimated.
local core = require "performer.core"
local util = require "performer.util"

local Module = core.methods("performer.module")
local op = core.op

--- The mean over all elements of the Huber loss of a - b: d^2 / 2 up to |d| = delta, straight from
--- there on. With c = min(|d|, delta) it is c (|d| - c / 2).
local function huber(a, b, delta)
  if op.sub(a, b):numel() ~= a:numel() or a:numel() ~= b:numel() then
    util.fail("loss: the output is %s, the target %s", tostring(a:shape()), tostring(b:shape()))
  end
  local d = (a - b):abs()
  local c = -(op.maximum(-d, core.full({ 1 }, -delta)))
  return (c * (d - c * 0.5)):mean()
end

--- The loss of one output; classes are counted where the target is not -1.
local function loss_of(name, y, target, delta)
  if core.kind(target) ~= "tensor" then
    util.fail("loss: the target of '%s' must be a tensor, got %s", name, core.kind(target))
  end
  if target:dtype() == "i32" then return y:cross_entropy(target) end
  if y:rank() == target:rank() + 1 and y:size(-1) == 1 then y = y:reshape(target:shape()) end
  if delta then return huber(y, target, delta) end
  return y:mean_square(target)
end

--- Options of the loss, and the rest, which is the pass of the call.
local function split(options)
  local pass = {}
  for key, value in pairs(util.copy(options or {})) do
    if key ~= "weights" and key ~= "huber" then pass[key] = value end
  end
  return pass, options and options.weights or {}, options and options.huber
end

local cross_entropy = Module.loss -- in pieces, where logits are many

local function check(batch)
  if type(batch) ~= "table" then
    util.fail("loss: a batch is a table {input, target}, got %s", core.kind(batch))
  end
end

--- The loss of every task that the batch has a target of.
local function losses_of(model, batch, pass, delta)
  local outputs, losses = model:outputs(batch, pass), {}
  for _, name in ipairs(util.sorted_keys(batch.targets)) do
    if not outputs[name] then
      local near = core.nearest(name, util.sorted_keys(outputs))
      util.fail("loss: the model has no task '%s'%s", name,
        near and (" (did you mean '%s'?)"):format(near) or "")
    end
    losses[name] = loss_of(name, outputs[name], batch.targets[name], delta)
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
  local rows = core.kind(target) ~= "tensor" or target:dtype() == "i32" and target:rank() > 1
  if rows then return cross_entropy(model, batch, pass) end
  return loss_of("target", model(batch, pass), target, delta)
end

--- The loss of a batch: of one task by batch.target, of several by batch.targets = {task = tensor},
--- each times its weight in `weights` (1). A task without a target in this batch is left out. Of
--- estimates mean square, or with huber = delta Huber's. What else stands in the options is the
--- pass.
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
