--- equal_steps.lua - models that differ in attention alone, each trained for the same steps on the
-- same rows from the same seed: what one attention learns where another doesn't.
local attention = require "kit.attention"
local cli = require "kit.cli"
local pf = require "performer"
local Progress = require "kit.progress"

local equal_steps = {}

--- The options of nn.performer that `options` and the attention NAME (of kit.attention) with
-- options of its own come to.
local function model_options(options, name, own)
  local all = attention.model_options(name)
  for key, value in pairs(options) do
    if key ~= "kernel" then all[key] = value end
  end
  if attention.takes_kernel(attention.kind_of(all)) then
    for key, value in pairs(options.kernel or {}) do
      if all.kernel[key] == nil then all.kernel[key] = value end
    end
  end
  all.attention_options = own
  return all
end

--- One step; returns its loss.
local function train_step(model, optimizer, batch, step, lr)
  local loss
  do
    local tape <close> = pf.tape()
    local mean = model(batch, { training = true, step = step }):cross_entropy(batch.target)
    tape:backward(mean)
    loss = mean:item()
  end
  optimizer:step { lr = lr, clip = 1 }
  return loss
end

--- Trains one model. o: name (of the attention), own (its options), model (options of nn.performer;
-- the kernel for attentions that take one), seed (1), steps, lr, batch(step), points (how often to
-- judge; 1), judge(model) -> { loss, ... }, label (of a progress line; nil: none). Returns what
-- judge said last, with `curve` {{step, loss}, ...}, `train_loss` (mean of the last tenth of the
-- steps), `step_ms` and `bytes_peak` of the steps, `params`, and `model`.
function equal_steps.train(o)
  pf.seed(o.seed or 1)
  local model = pf.nn.performer(model_options(o.model, o.name, o.own))
  local optimizer = pf.optim.adamw(model, { lr = o.lr, decay = 0.01, betas = { 0.9, 0.98 } })
  local lr = pf.schedule.cosine { warmup = math.max(1, o.steps // 10), steps = o.steps, peak = o.lr,
                                  floor = 0.05 * o.lr }
  local progress = o.label and Progress.new { live = pf.term.colour(2), clock = pf.clock,
    late = true, name = o.label, total = o.steps, width = function() return pf.term.width(2) end }
  local tail, sum, seconds, peak, judged = math.max(1, o.steps // 10), 0, 0, 0, 0
  local curve, verdict = {}, nil
  collectgarbage()
  local before = pf.memory().live
  for step = 1, o.steps do
    local batch = o.batch(step)
    pf.reset_peak()
    local start = pf.clock()
    local loss = train_step(model, optimizer, batch, step, lr(step))
    seconds, peak = seconds + pf.clock() - start, math.max(peak, pf.memory().peak - before)
    if step > o.steps - tail then sum = sum + loss end
    if step * (o.points or 1) // o.steps > judged then
      judged = step * (o.points or 1) // o.steps
      verdict = o.judge(model)
      curve[#curve + 1] = { step, verdict.loss }
      collectgarbage()
    end
    if progress then progress:show(step, { ("loss %.3f"):format(loss) }) end
    if pf.interrupted() then cli.fail(130, "interrupted") end
  end
  if progress then progress:finish() end
  optimizer:close()
  verdict.curve, verdict.train_loss, verdict.params = curve, sum / tail, model:count()
  verdict.step_ms, verdict.bytes_peak, verdict.model = 1e3 * seconds / o.steps, peak, model
  return verdict
end

return equal_steps
