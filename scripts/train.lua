--- performer train - trains a Performer on proteins (FASTA) or text, logs, checkpoints, resumes.
--
-- All there is to training stands below: the model, the optimizer, the loss, and the loop. What
-- else a run needs (its folder, log and picture, going on where it stopped, Ctrl-C, --minutes) is
-- kit/run.lua's. To train in a way of your own, copy this file, change it, and run the copy with
-- the same options, from any folder:
--
--   performer my_train.lua --data proteins.fasta --minutes 3
local cli = require "kit.cli"
local evaluate = require "kit.evaluate"
local pf = require "performer"
local Run = require "kit.run"
local saved = require "kit.saved"
local train_options = require "kit.train_options"

--- The model of a fresh run; a run that goes on has the one that it saved.
local function make_model(settings)
  if settings.script then return cli.need(saved.model_from(settings.script, settings)) end
  return train_options.try(pf.nn.performer, settings.model)
end

local function make_optimizer(model, settings)
  return train_options.try(pf.optim[settings.optimizer], model, settings.optimizer_options)
end

--- What training makes small, of logits (B, L, vocab) and targets (B, L), which are -1 where
-- nothing is asked: the mean loss of a token, in nats. A loss of your own goes here; --sliced does
-- not see it.
local function loss_of(logits, target)
  return logits:cross_entropy(target)
end

--- Forward and backward of a batch, whose mean loss counts by `share` and is returned so; the
-- gradient is added to the weights'. With --sliced the engine makes logits and cross-entropy, a
-- part of every row at a time; so it does with --segments.
local function learn(model, optimizer, batch, pass, share)
  if pass.segments then return optimizer:backward_segments(batch, pass) end
  if pass.slice_length then return model:backward_sliced(batch, pass) end
  local tape <close> = pf.tape()
  local logits = model(batch, pass)
  local mean = loss_of(logits, batch.target)
  if batch.last then optimizer:overlap() end -- with several ranks: what is whole travels meanwhile
  tape:backward(mean, share)
  return share * mean:item()
end

--- Loss, perplexity and accuracy on the held-out rows: in passing always on the same ones, at the
-- end on all (a sample, where all would take too much of --minutes); with the average of the
-- weights where --ema keeps one. Ctrl-C ends it; a run that goes on begins it anew.
local function held_out(run, step, whole)
  local settings = run.settings
  return run:averaged(evaluate.run, run.model, run.data, {
    batch = settings.batch, masked = settings.bidirectional, carry = settings.carry,
    limit = whole and settings.final_batches or not whole and settings.valid_batches or nil,
    counting = whole and settings.final_batches and not settings.bidirectional,
    baseline = settings.bidirectional, stop = pf.interrupted,
    each = function(batch, batches) run:show_batch(step, batch, batches) end,
  }) or run:stop(step)
end

--- What follows a step: an evaluation when it is due, the log, and a checkpoint of it.
local function conclude(run, record)
  if run:due(record.step) then run:judge(record, held_out(run, record.step)) end
  run:log(record)
  if record.valid_loss then run:keep(record) end
end

local function main()
  local run <close> = Run.open(train_options.parse(arg),
                               { model = make_model, optimizer = make_optimizer, loss = loss_of })
  local settings, model, optimizer = run.settings, run.model, run.optimizer

  if run.state.pending then conclude(run, run.state.pending) end -- where the run was stopped
  for step in run:steps() do
    local losses = {}
    for batch, pass, share in run:batches(step) do -- one, or --accumulate of them, or --lanes
      losses[#losses + 1] = learn(model, optimizer, batch, pass, share)
    end
    local lr = run:lr(step)
    local norm = optimizer:step { lr = lr, clip = settings.clip }
    conclude(run, run:measure { step = step, losses = losses, lr = lr, norm = norm })
  end

  run:save(run.done) -- before the long evaluation
  run:finish(held_out(run, run.done, true))
end

cli.main(main)
