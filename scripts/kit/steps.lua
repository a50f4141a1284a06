--- steps.lua - the steps of training: the batches of each, and how the model is to be run on them.
-- It is what a run (run.lua) and the search for a learning rate (find_lr.lua) have in common; both
-- have settings, data and model, and with --carry what the rows go on from (carried, by lane).
local carried = require "kit.carried"
local cli = require "kit.cli"
local lanes = require "kit.lanes"
local ranks = require "kit.ranks"
local train_options = require "kit.train_options"

local Steps = {}
Steps.__index = Steps

--- Batch i of `step`, or with --lanes the part of it that is the lane's. With --segments it is of
-- whole rows, the same on all ranks that share them.
local function batch_of(self, step, i, lane)
  local s = self.settings
  local n, index = lanes.of_rows(s), (step - 1) * s.accumulate + i
  local size = s.batch // n
  local batch
  if s.carry then -- a lane's rows go on where they themselves ended
    batch = self.data:batch { index = index, size = s.batch, split = "train", seed = s.seed,
                              stream = true, rows = { (lane - 1) * size + 1, lane * size } }
  else
    batch = self.data:batch { index = (index - 1) * n + lane, size = size, split = "train",
                              masked = s.bidirectional, seed = s.seed }
  end
  batch.lane, batch.forward = lane, (lane - 1) * s.accumulate + i
  return batch
end

--- The batches of `step` that are this rank's: one, or so many as --accumulate says, of each lane.
function Steps:fetch(step)
  local s, batches, tokens = self.settings, {}, 0
  for lane in ranks.lanes(lanes.of_rows(s)) do
    for i = 1, s.accumulate do
      local batch = batch_of(self, step, i, lane)
      batches[#batches + 1], tokens = batch, tokens + batch.tokens
    end
  end
  batches[#batches].last = s.lanes > 1 and not s.segments -- its gradient may travel at once
  if not ranks.first_of_row() then tokens = 0 end -- another has counted them
  self.step_batches, self.step_tokens, self.taken = batches, ranks.sum(tokens), 0
  self.before = carried.fork(self.carried) -- until the step is whole
end

--- A lane's gradient is whole when the next lane begins, or the step ends.
local function fold(self, before, batch)
  if self.settings.lanes == 1 or self.settings.segments or not before then return end
  if not batch or batch.lane ~= before.lane then self.optimizer:fold() end
end

--- for batch, pass, share in run:batches(step) do: the batches of a step; how the model is to be
-- run on each; and the share of the step's tokens that each has, by which its mean loss counts.
function Steps:batches(step)
  local i, n = 0, self.settings.accumulate * lanes.of_rows(self.settings)
  return function()
    i = i + 1
    local batch = self.step_batches[i]
    fold(self, self.step_batches[i - 1], batch)
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
  local several = s.accumulate * lanes.of_rows(s) > 1
  if several then pass.micro = self.step_batches[i or 1].forward - 1 end
  pass.carry = self.carried and self.carried[self.step_batches[i or 1].lane]
  pass.slice_length = train_options.slice_length(s)
  if s.segments then pass.segments, pass.chain = s.segments, s.segment_form == "chain" end
  if (pass.slice_length or s.segments) and several then pass.counted = self.step_tokens end
  return pass
end

--- The loss of a step from its record: what its batches' losses come to, on all ranks; `losses` is
-- a list of them, `loss` their sum.
function Steps:loss_of(record) -- luacheck: ignore 212
  local losses = record.losses or { record.loss }
  if not ranks.first_of_row() then losses = {} end -- all that share a row have the same
  local loss = ranks.total(losses)
  record.losses, record.loss = nil, loss
  return loss
end

--- A script that knows nothing of --accumulate would train on a part of each step.
function Steps:check_taken()
  local n, s = #self.step_batches, self.settings
  if self.taken == n or (n == 1 and s.lanes == 1) then return end
  cli.fail(2, ("train: --%s %d: this script takes one batch a step; in a loop over "
    .. "run:batches(step), as scripts/train.lua has it, it takes all"):format(
    s.lanes > 1 and "lanes" or "accumulate", math.max(s.lanes, s.accumulate)))
end

return Steps
