--- finish.lua - the end of a run of `train`: its last record, and what came of it in words. A
-- module with what kit/run.lua's Run does last.
local cli = require "kit.cli"
local lfs = require "lfs"
local trainable = require "kit.trainable"
local pf = require "performer"
local ranks = require "kit.ranks"

local finish = {}

--- The last record: what evaluate.run says of the whole held-out part, beside counting.
local function final_record(run, result)
  local s, state = run.settings, run.state
  local baselines = not s.bidirectional and run.baselines or nil
  local params, trained = trainable.count(run.model)
  return { final = true, stopped = state.stopped and "patience" or nil,
           best_step = state.best_step, best_loss = state.best, step = run.done,
           steps = s.steps, train_loss = state.smooth,
           valid_loss = result.loss, valid_perplexity = result.perplexity,
           valid_accuracy = result.accuracy, tokens = result.tokens,
           sample = s.final_batches ~= nil or nil,
           baseline_perplexity = baselines and baselines.frequencies or result.baseline,
           pair_perplexity = baselines and baselines.pairs or nil,
           params = params, params_ngrams = trainable.memory_of(run.model),
           params_trained = trained < params and trained or nil,
           seconds = state.seconds, bytes_peak = pf.memory().peak }
end

--- A model that does no better than counting has not had its time.
local function encourage(run, record)
  local counting = math.min(record.baseline_perplexity or math.huge,
                            record.pair_perplexity or math.huge)
  if record.valid_perplexity < counting or record.stopped then return end
  cli.say("\nmere counting does better so far, the model needs longer; %s",
          run:how_to_go_on((" --steps %d"):format(4 * record.step)))
end

--- The figures of the held-out part, a line each.
local function say_figures(record, baselines, of)
  cli.say("")
  cli.say("held out, %d tokens          perplexity   accuracy", record.tokens)
  if record.sample then
    cli.say("  (a sample of %d: all would take too long; %s measures all)", of,
            cli.called "performer eval")
  end
  cli.say("  this Performer             %10.3f   %6.2f %%", record.valid_perplexity,
          100 * record.valid_accuracy)
  if baselines.pairs then cli.say("  pairs (last token)         %10.3f", baselines.pairs) end
  if record.baseline_perplexity then
    cli.say("  frequencies                %10.3f", record.baseline_perplexity)
  end
  if baselines.uniform then cli.say("  uniform                    %10.3f", baselines.uniform) end
end

--- The average of the weights as a model of its own, for who loads a model alone; where it is, or
-- nil.
local function save_average(run, step)
  if not run.optimizer:has_average() then return nil end
  local path, message = run:averaged(pf.checkpoint.save, run.dir .. "/average", {
    model = run.model, state = run.state, step = step, keep = 1,
    tokenizer = run.data:info().tokenizer })
  if not path then cli.say("train: the average is not saved by itself: %s", message) end
  return path and run.dir .. "/average"
end

--- Run:finish, of what evaluate.run says of the whole held-out part: the last record, the last
-- checkpoint, and what came of it, on stderr. Only where evaluations in passing are of all rows,
-- too, can the last one name the best.
function finish.run(run, result)
  if result.counted then run.baselines = result.counted end -- on the same tokens
  local step, baselines = run.done, run.baselines or {}
  run.progress:finish()
  run:check_judged(step, result)
  if run:judges_all() and not run.state.stopped then run:compare(step, result.loss) end
  local record = final_record(run, result)
  run:write(record)
  run.state.finished, run.saved = true, nil -- what the state says has changed
  if run.settings.bidirectional then
    run.baselines = run.baselines or { frequencies = result.baseline }
  end
  run:save(step)
  if run.state.best_step == step then run:mark_best(step) end
  local average, picture = save_average(run, step), run:draw()
  if not ranks.first() then return end
  say_figures(record, baselines, run.data:info("valid").tokens)
  encourage(run, record)
  cli.say("\nrun folder  %s (checkpoint step-%d, log.jsonl)", run.dir, step)
  if average then cli.say("average     %s (the weights that were judged, alone)", average) end
  if (record.best_step or step) ~= step and lfs.attributes(run.dir .. "/BEST", "mode") then
    cli.say("best        %s/BEST (checkpoint step-%d, held out %.4f)", run.dir, record.best_step,
            record.best_loss)
  end
  if picture then cli.say("picture     %s", picture) end
  cli.say("report      %s %s (curves, samples, where its heads look: one page)",
          cli.called "performer report", cli.quote(run.dir))
end

return finish
