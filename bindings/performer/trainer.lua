--- trainer.lua - the parts of a training loop that every script needs: evaluation, the two
-- count baselines, a run with logging, checkpoints and exact resume. Nothing here is known to
-- the engine; scripts/train.lua puts it together, and a script of one's own may as well.
local pf = require "performer"
local Progress = require "performer.progress"
local svg = require "performer.svg"

local trainer = {}

--- Loss (nats a token) and accuracy of `model` on a split of `data`.
-- options: split "valid", batch rows, limit (batches at most), masked, seed.
-- Returns { loss, perplexity, accuracy, tokens, seconds }.
function trainer.evaluate(model, data, options)
  local split, rows = options.split or "valid", options.batch or 8
  local batches = math.ceil(data:info(split).rows / rows)
  if options.limit then batches = math.min(batches, options.limit) end
  local start, total, right, tokens = pf.clock(), 0, 0, 0
  for _, batch in data:batches { size = rows, steps = batches, split = split,
                                 masked = options.masked, seed = options.seed or 1 } do
    local logits = model(batch)
    local count = batch.tokens
    if count > 0 then
      total = total + logits:cross_entropy(batch.target):item() * count
      right = right + trainer.hits(logits, batch.target)
      tokens = tokens + count
    end
  end
  local loss = tokens > 0 and total / tokens or 0
  return { loss = loss, perplexity = math.exp(loss), accuracy = tokens > 0 and right / tokens or 0,
           tokens = tokens, seconds = pf.clock() - start }
end

--- How many positions of logits (B, L, V) have their largest value at the target (B, L).
function trainer.hits(logits, target)
  local best, wanted, right = logits:argmax(-1):totable(), target:totable(), 0
  for i, row in ipairs(wanted) do
    local guess = best[i]
    for j, id in ipairs(row) do
      if id >= 0 and guess[j] - 1 == id then right = right + 1 end
    end
  end
  return right
end

--- Perplexities of counting on the training split, measured on the valid tokens:
-- { uniform, frequencies, pairs }; each count has 0.5 (pairs: a share of the frequencies) added.
function trainer.baselines(data)
  local train, valid = data:counts "train", data:counts "valid"
  local vocab = #train.bigram
  local function column_sums(pairs_table)
    local sums = {}
    for id = 1, vocab do sums[id] = 0 end
    for _, row in ipairs(pairs_table) do
      for id = 1, vocab do sums[id] = sums[id] + row[id] end
    end
    return sums
  end
  local seen, asked = column_sums(train.bigram), column_sums(valid.bigram)
  local total, tokens, used = 0, 0, 0
  for id = 1, vocab do
    total, tokens = total + seen[id], tokens + asked[id]
    if seen[id] > 0 then used = used + 1 end
  end
  if tokens == 0 then return nil end
  local frequency = {}
  for id = 1, vocab do frequency[id] = (seen[id] + 0.5) / (total + 0.5 * vocab) end
  local unigram, bigram = 0, 0
  for before = 1, vocab do
    local row, sum = train.bigram[before], 0
    for id = 1, vocab do sum = sum + row[id] end
    for id = 1, vocab do
      local n = valid.bigram[before][id]
      if n > 0 then
        unigram = unigram - n * math.log(frequency[id])
        bigram = bigram - n * math.log((row[id] + 5 * frequency[id]) / (sum + 5))
      end
    end
  end
  return { uniform = used, frequencies = math.exp(unigram / tokens),
           pairs = math.exp(bigram / tokens) }
end

--- One training step on `batch`; returns the loss and the gradient norm.
function trainer.step(model, optimizer, batch, settings)
  local tape <close> = pf.tape()
  local logits = model(batch, { training = true, step = settings.step })
  local loss = logits:cross_entropy(batch.target)
  tape:backward(loss)
  local value = loss:item()
  return value, optimizer:step { lr = settings.lr, clip = settings.clip }
end

-- ---- a run: log, picture, checkpoints ----

local Run = {}
Run.__index = Run

--- Opens a run folder. options: dir, live (terminal), json (print log lines), echo (function).
function trainer.run(options)
  local file, message = io.open(options.dir .. "/log.jsonl", options.resume and "a" or "w")
  if not file then return nil, ("can't write the log: %s"):format(message) end
  return setmetatable({ dir = options.dir, file = file, json = options.json, train = {},
                        valid = {} }, Run)
end

function Run:log(record)
  local line = pf.json.encode(record)
  self.file:write(line, "\n")
  self.file:flush()
  if self.json then
    io.stdout:write(line, "\n")
    io.stdout:flush()
  end
end

--- The loss curve as loss.svg. `baselines`: { name = loss in nats }.
function Run:draw(title, baselines)
  local series = { { name = "training", points = self.train },
                   { name = "held out", points = self.valid, marks = true } }
  local last = #self.train > 0 and self.train[#self.train][1] or 1
  for name, loss in pf.sorted(baselines or {}) do
    series[#series + 1] = { name = name, points = { { 1, loss }, { last, loss } }, dashed = true }
  end
  local file = io.open(self.dir .. "/loss.svg", "w")
  if not file then return nil end
  file:write(svg.chart { title = title, x = "step", y = "nats a token", series = series })
  file:close()
  return self.dir .. "/loss.svg"
end

function Run:close() self.file:close() end

--- How many steps fill `seconds`, from the clock times of the first ones.
function trainer.steps_for(seconds, times)
  local sorted = table.move(times, 1, #times, 1, {})
  table.sort(sorted)
  return math.max(#times + 1, math.floor(seconds / sorted[(#sorted + 1) // 2]))
end

trainer.Progress = Progress

return trainer
