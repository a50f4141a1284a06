--- steps.lua - the steps of training: the batches of each, and how the model is to be run on them.
-- It is what a run (run.lua) and the search for a learning rate (find_lr.lua) have in common; both
-- have settings, data and model, and with --carry what the rows go on from (carried).
local cli = require "kit.cli"
local train_options = require "kit.train_options"

local Steps = {}
Steps.__index = Steps

--- The batches of `step`: one, or so many as --accumulate says.
function Steps:fetch(step)
  local s, batches, tokens = self.settings, {}, 0
  for i = 1, s.accumulate do
    batches[i] = self.data:batch { index = (step - 1) * s.accumulate + i, size = s.batch,
                                   split = "train", masked = s.bidirectional, seed = s.seed,
                                   stream = s.carry ~= nil }
    tokens = tokens + batches[i].tokens
  end
  self.step_batches, self.step_tokens, self.taken = batches, tokens, 0
  self.before = self.carried and self.carried:fork() -- until the step is whole
end

--- for batch, pass, share in run:batches(step) do: the batches of a step; how the model is to be
-- run on each; and the share of the step's tokens that each has, by which its mean loss counts.
function Steps:batches(step)
  local i, n = 0, self.settings.accumulate
  return function()
    i = i + 1
    local batch = self.step_batches[i]
    if not batch then return nil end
    self.taken = i
    local share = self.step_tokens > 0 and batch.tokens / self.step_tokens or 1 / n
    return batch, self:pass(step, i), share
  end
end

--- Is `step` one that is logged?
function Steps:is_logged(step)
  local s = self.settings
  return step == 1 or step == s.steps or step % s.log_every == 0 or step % s.eval_every == 0
end

--- How the model is to be run on the i-th batch of `step` (1): in training, and with an eye on its
-- attention when the step is logged. `slice_length`, and the tokens that the step's mean is of,
-- are for model:backward_sliced.
function Steps:pass(step, i)
  local s = self.settings
  local pass = { training = true, step = step, watch = self:is_logged(step) }
  if s.accumulate > 1 then pass.micro = (i or 1) - 1 end
  pass.carry = self.carried
  pass.slice_length = train_options.slice_length(s)
  if pass.slice_length and s.accumulate > 1 then pass.counted = self.step_tokens end
  return pass
end

--- A script that knows nothing of --accumulate would train on a part of each step.
function Steps:check_taken()
  local n = self.settings.accumulate
  if n == 1 or self.taken == n then return end
  cli.fail(2, ("train: --accumulate %d: this script takes one batch a step; in a loop over "
    .. "run:batches(step), as scripts/train.lua has it, it takes all"):format(n))
end

return Steps
