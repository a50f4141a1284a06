-- commands_figures_spec.lua - the figures of train and eval against computations of their own:
-- losses, accuracy, baselines, clipping, and which checkpoint is the best.
local commands = require "spec.support.commands"
local course = require "kit.course"
local evaluate = require "kit.evaluate"
local pf = require "performer"
local support = require "spec.support"

local good, log_of, path, records, train = commands.good, commands.log_of, commands.path,
  commands.records, commands.train

--- Sum of losses, of hits, and count over batches, a row at a time from the logits, in doubles.
local function judge(model, batches)
  local loss, right, count = 0, 0, 0
  for _, batch in ipairs(batches) do
    local logits, target = model(batch):totable(), batch.target:totable()
    for i, row in ipairs(target) do
      for j, id in ipairs(row) do
        if id >= 0 then
          local numbers, sum, top = logits[i][j], 0, -math.huge
          for _, x in ipairs(numbers) do top = math.max(top, x) end
          for _, x in ipairs(numbers) do sum = sum + math.exp(x - top) end
          loss = loss + top + math.log(sum) - numbers[id + 1]
          right = right + (numbers[id + 1] == top and 1 or 0)
          count = count + 1
        end
      end
    end
  end
  return loss / count, right / count, count
end

--- Every held-out batch of a run's data, or those of `indices`.
local function held_out(settings, masked, indices)
  local data = assert(pf.data.open { path = settings.data, length = settings.length,
                                     seed = settings.seed })
  local batches = {}
  for i = 1, math.ceil(data:info("valid").rows / settings.batch) do
    if not indices or indices[i] then
      batches[#batches + 1] = data:batch { index = i, size = settings.batch, split = "valid",
                                           masked = masked, seed = 1 }
    end
  end
  return batches, data
end

local function settings_of(run) return assert(pf.checkpoint.load(run)).state.settings end

local function near(want, got, tolerance)
  assert.is_true(math.abs(want - got) <= (tolerance or 2e-5) * math.abs(want),
                 ("%.9g, not %.9g"):format(got, want))
end

--- The record of a log with the least valid_loss.
local function best_of(log)
  local best
  for _, record in ipairs(log) do
    local judged = not record.final and record.valid_loss
    if judged and (not best or judged < best.valid_loss) then best = record end
  end
  return best
end

describe("the figures", function()
  setup(commands.start)
  teardown(commands.stop)

  it("of a text are those of all its held-out letters, and of counting on the same", function()
    local run = train("text", ("--data %s --steps 60 --eval-every 20 --threads 1"):format(
      path "t.txt"))
    local log = log_of(run)
    local final = log[#log]
    local batches = held_out(settings_of(run), false)
    local loss, accuracy, count = judge(assert(pf.checkpoint.model(run)), batches)
    near(loss, final.valid_loss)
    near(accuracy, final.valid_accuracy, 0)
    assert.equal(count, final.tokens)
    local text = support.read(path "t.txt")
    local border, counts, sum = #text - math.floor(#text * 0.1), {}, 0
    for i = 2, border do counts[text:byte(i)] = (counts[text:byte(i)] or 0) + 1 end
    for i = border + 2, #text do
      sum = sum - math.log(((counts[text:byte(i)] or 0) + 0.5) / (border - 1 + 0.5 * 256))
    end
    near(math.exp(sum / (#text - border - 1)), final.baseline_perplexity, 1e-9)
    local whole = records((good(("eval --checkpoint %s --data %s --split valid --json --batch 4")
      :format(run, path "t.txt"))))[1]
    near(loss, whole.loss)
    near(accuracy, whole.accuracy, 0)
  end)

  it("of a masked model are of hidden letters alone, and so is its baseline", function()
    local run = train("masked", ("--data %s --steps 30 --bidirectional --threads 1"):format(
      path "p.fasta"))
    local log = log_of(run)
    local batches, data = held_out(settings_of(run), true)
    local mask, asked, seen = data:tokenizer():special "mask", 0, 0
    local frequency, total, cost = data:counts("train").unigram, 0, 0
    for name in pairs { begin = 1, ["end"] = 1, mask = 1, pad = 1 } do
      frequency[data:tokenizer():special(name) + 1] = 0
    end
    for _, n in ipairs(frequency) do total = total + n + 0.5 end
    for _, batch in ipairs(batches) do
      local input = batch.input:totable()
      for i, row in ipairs(batch.target:totable()) do
        for j, id in ipairs(row) do
          if id >= 0 then
            asked, seen = asked + 1, seen + (input[i][j] ~= mask and 1 or 0)
            cost = cost - math.log((frequency[id + 1] + 0.5) / total)
            input[i][j] = mask
          end
        end
      end
      batch.input = pf.tensor(input, { dtype = "i32" })
    end
    assert.is_true(seen > 0, "BERT's masks leave some to be seen, or the test tells nothing")
    local loss, accuracy, count = judge(assert(pf.checkpoint.model(run)), batches)
    near(loss, log[#log].valid_loss)
    assert.is_nil(log[#log - 1].valid_loss) -- the same rows: they are looked at once
    near(accuracy, log[#log].valid_accuracy, 0)
    assert.equal(asked, count)
    assert.equal(asked, log[#log].tokens)
    near(math.exp(cost / asked), log[#log].baseline_perplexity, 1e-9)
    assert.matches("frequencies</text>", support.read(run .. "/loss.svg"))
  end)

  it("of the training part count each of its rows once, whatever the batches", function()
    local run = train("sides", ("--data %s --steps 2"):format(path "p.fasta"))
    local info = assert(pf.data.open { path = path "p.fasta" }):info "train"
    local first
    for _, batch in ipairs { 1, 3, 7 } do
      local out = good(("eval --checkpoint %s --data %s --split train --batch %d --json"):format(
        run, path "p.fasta", batch))
      local record = records(out)[1]
      first = first or record
      assert.same({ info.tokens, first.rows }, { record.tokens, record.rows })
      near(first.loss, record.loss)
    end
  end)

  it("at the end of --minutes are a sample's where all would take half of it", function()
    local data = { info = function() return { rows = 4000 } end }
    local function settle(room)
      local s = { batch = 4, accumulate = 1, valid_batches = 3, eval_every = 200, warmup = 10 }
      course.fix_steps(s, data, 5, room)
      return s
    end
    assert.equal(60, settle(100).final_batches) -- a third of a step each: a fifth of the room
    assert.equal(3, settle(1).final_batches)
    assert.is_nil(settle(1000).final_batches)
    assert.is_true(settle(100).steps >= 5 + 75)
    data.info = function() return { rows = 12 } end -- as every evaluation
    assert.is_nil(settle(-1).final_batches)
  end)

  it("of counting are the same on a sample of all as on all", function()
    local data = assert(pf.data.open { path = path "t.txt", length = 32 })
    local model = pf.nn.performer { vocab = 256, dim = 4, layers = 1, heads = 1, causal = true }
    local all = evaluate.run(model, data, { batch = 3, counting = true })
    local wanted = evaluate.baselines(data)
    near(wanted.frequencies, all.counted.frequencies)
    near(wanted.pairs, all.counted.pairs)
    assert.equal(wanted.uniform, all.counted.uniform)
    local some = evaluate.run(model, data, { batch = 3, limit = 2, counting = true })
    assert.is_true(some.tokens < all.tokens and some.counted.pairs ~= all.counted.pairs)
    assert.is_nil(evaluate.run(model, data, { batch = 3, limit = 1 }).counted)
  end)

  it("in passing are of the same rows each time, and BEST is the best of them", function()
    -- A text whose held-out part is long against the steps between; it is learned, then lost to a
    -- rate that is far too high.
    local run = train("part", ("--data %s --steps 30 --eval-every 3 --keep 20 --batch 1 "
      .. "--optimizer lion --lr 0.3 --warmup 29 --threads 1"):format(path "t.txt"))
    local log, settings = log_of(run), settings_of(run)
    local best, judged = best_of(log), 0
    assert.equal("step-" .. best.step .. "\n", support.read(run .. "/BEST"))
    assert.is_true(best.step < 30, "the last step is the best: the test tells nothing")
    local all, some, indices = #held_out(settings, false), settings.valid_batches, {}
    assert.is_true(some < all)
    for i = 0, some - 1 do indices[1 + i * all // some] = true end
    local batches = held_out(settings, false, indices)
    assert.equal(some, #batches)
    for _, record in ipairs(log) do
      if record.valid_loss and not record.final then
        local model = assert(pf.checkpoint.model(("%s/step-%d"):format(run, record.step)))
        local loss, _, count = judge(model, batches)
        near(loss, record.valid_loss)
        assert.equal(count, record.valid_tokens)
        assert.equal(#batches, record.valid_rows)
        judged = judged + 1
      end
    end
    assert.equal(10, judged) -- the last step, too
    near(judge(assert(pf.checkpoint.model(run)), (held_out(settings, false))),
         log[#log].valid_loss)
    assert.matches(("held out, %d of %d rows<"):format(#batches, all),
                   support.read(run .. "/loss.svg"))
    -- A run that goes on compares on the same rows, whatever --eval-every has become.
    good(("train --resume %s/step-12 --out %s --eval-every 6 --threads 1"):format(run,
      path "part2"))
    local again = best_of(log_of(path "part2"))
    assert.equal("step-" .. again.step .. "\n", support.read(path "part2/BEST"))
    for _, record in ipairs(log_of(path "part2")) do
      if record.valid_rows then assert.equal(#batches, record.valid_rows) end
    end
  end)

  it("of a clipped step: as long as --clip says", function()
    local weights = {}
    for _, clip in ipairs { 0.02, 0.05 } do
      local run = train("clip" .. clip, ("--data %s --steps 1 --optimizer sgd --lr 0.5 --clip %g "
        .. "--threads 1"):format(path "t.txt", clip))
      local first = log_of(run)[1]
      assert.equal(0.5, first.lr)
      assert.is_true(first.norm > 0.1)
      weights[#weights + 1] = assert(pf.checkpoint.model(run)):parameters()
    end
    local sum = 0
    for i, w in ipairs(weights[1]) do
      local d = w - weights[2][i]
      sum = sum + (d * d):sum():item()
    end
    near(0.5 * 0.03, math.sqrt(sum), 1e-3)
  end)

  it("of the parameters tell the n-gram memory apart", function()
    local run, _, err = train("memory", ("--data %s --steps 2 --ngrams 3 --ngrams-shortest 2 "
      .. "--ngrams-width 8 --buckets 1024 --threads 1"):format(path "t.txt"))
    local log = log_of(run)
    local memory = 0
    for name, t in pairs(assert(pf.checkpoint.model(run)):tensors()) do
      if name:find("ngrams", 1, true) then memory = memory + t:numel() end
    end
    assert.is_true(memory >= 2 * 1024 * 8)
    assert.equal(memory, log[#log].params_ngrams)
    assert.matches(("model  [%%d,]+ parameters, %s of them the n%%-gram memory"):format(
      (("%d"):format(memory):gsub("(%d%d%d)$", ",%1"))), err)
  end)
end)

describe("a checkpoint", function()
  it("goes on with the random numbers where they stood", function()
    local folder = support.folder()
    finally(function() support.remove(folder) end)
    local model = pf.nn.linear { from = 2, to = 2 }
    local opt = pf.optim.sgd(model)
    pf.seed(11)
    pf.randn(5)
    assert(pf.checkpoint.save(folder, { model = model, optimizer = opt, step = 1 }))
    local next, after = pf.randn(5):tobytes(), pf.rand(3):tobytes()
    pf.seed(99)
    assert(pf.checkpoint.load(folder))
    assert.equal(next, pf.randn(5):tobytes())
    assert.equal(after, pf.rand(3):tobytes())
  end)
end)
