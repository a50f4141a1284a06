--- trainer.lua - the parts of a training loop that every script needs: evaluation, the two
-- count baselines, a run with its log and picture, opening what a run left. Nothing here is
-- known to the engine; scripts/train.lua puts it together, and a script of one's own may too.
local pf = require "performer"
local lfs = require "lfs"
local Progress = require "kit.progress"
local svg = require "kit.svg"
local advise = require "performer.advise"

local trainer = {}

-- ---- measuring ----

--- exp(loss) that stays a finite number, for JSON.
function trainer.perplexity(loss) return math.exp(math.min(loss, 700)) end

--- -log of each letter's share of the training split, by id + 1; marks such as begin and end
-- are no letters: they are never masked.
local function letter_costs(data)
  local counts, tokenizer, costs, total = data:counts("train").unigram, data:tokenizer(), {}, 0
  for _, name in ipairs { "begin", "end", "mask", "pad" } do
    local id = tokenizer:special(name)
    if id then counts[id + 1] = 0 end
  end
  for _, count in ipairs(counts) do total = total + count + 0.5 end
  for i, count in ipairs(counts) do costs[i] = math.log(total / (count + 0.5)) end
  return costs
end

local function cost_of(target, costs)
  local sum = 0
  for _, row in ipairs(target:totable()) do
    for _, id in ipairs(row) do sum = sum + (id >= 0 and costs[id + 1] or 0) end
  end
  return sum
end

--- Loss (nats a token) and accuracy of `model` on a split of `data`.
-- options: split "valid", batch rows, limit (batches at most), masked, seed, baseline (true:
-- also the perplexity of the training split's frequencies on the same tokens),
-- each(batch, batches), stop() (true: give up, the result is nil).
-- Returns { loss, perplexity, accuracy, tokens, seconds, baseline }.
function trainer.evaluate(model, data, options)
  local split, rows = options.split or "valid", options.batch or 8
  local batches = math.ceil(data:info(split).rows / rows)
  if options.limit then batches = math.min(batches, options.limit) end
  local costs = options.baseline and letter_costs(data)
  local start, total, right, tokens, cost = pf.clock(), 0, 0, 0, 0
  for i, batch in data:batches { size = rows, steps = batches, split = split,
                                 masked = options.masked, seed = options.seed or 1 } do
    local logits = model(batch)
    local count = batch.tokens
    if count > 0 then
      total = total + logits:cross_entropy(batch.target):item() * count
      right = right + trainer.hits(logits, batch.target)
      tokens = tokens + count
      cost = cost + (costs and cost_of(batch.target, costs) or 0)
    end
    if options.stop and options.stop() then return nil end
    collectgarbage() -- no tape frees what this batch has made
    if options.each then options.each(i, batches) end
  end
  local some = math.max(tokens, 1)
  return { loss = total / some, perplexity = trainer.perplexity(total / some), tokens = tokens,
           accuracy = right / some, seconds = pf.clock() - start,
           baseline = costs and trainer.perplexity(cost / some) or nil }
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

--- One training step on `batch`; returns the loss and the gradient norm. settings: step, lr,
-- clip, watch, sliced (how many parts the sequence is walked in; 1).
function trainer.step(model, optimizer, batch, settings)
  if (settings.sliced or 1) > 1 then
    local value = model:backward_sliced(batch, { slices = settings.sliced, step = settings.step,
                                                 watch = settings.watch })
    return value, optimizer:step { lr = settings.lr, clip = settings.clip }
  end
  local tape <close> = pf.tape()
  local logits = model(batch, { training = true, step = settings.step, watch = settings.watch })
  local loss = logits:cross_entropy(batch.target)
  tape:backward(loss)
  local value = loss:item()
  return value, optimizer:step { lr = settings.lr, clip = settings.clip }
end

-- ---- the error of softmax features ----

--- What model:attention_report() says, a table a layer: { layer, map, features, and a number a
-- head of query, key, sum, predicted_rel_mse }; nil where there is nothing to say.
function trainer.attention_record(model)
  local layers, last = {}, nil
  for _, line in ipairs(model:attention_report()) do
    if not last or last.layer ~= line.layer then
      last = { layer = line.layer, map = line.map, features = line.features }
      layers[#layers + 1] = last
    end
    for _, name in ipairs { "query", "key", "sum", "predicted_rel_mse" } do
      last[name] = last[name] or {}
      last[name][line.head] = tonumber(("%.4g"):format(line[name]))
    end
  end
  return #layers > 0 and layers or nil
end

--- One sentence when the error that theory tells for the softmax features of a layer is
-- hopeless, and what helps; nil when all is well.
function trainer.attention_warning(model)
  local found = advise.hopeless(model:attention_report())
  local worst = found[1]
  if not worst then return nil end
  local more = #found > 1 and (" and %d more"):format(#found - 1) or ""
  return ("the softmax estimate of %s%s is hopeless: |x+y|^2 is about %.3g, where the mean "
    .. "square error of a weight is %.2g times its square (%s, %d features); what helps: "
    .. "normed queries and keys (qk_norm), a smaller scale, softmax_hyp or softmax_plus "
    .. "features, or relu, which estimates nothing"):format(worst.layer, more, worst.sum,
    worst.median_rel_mse, worst.map, worst.features)
end

--- How many steps fill `seconds`, from the clock times of the first ones.
function trainer.steps_for(seconds, times)
  local sorted = table.move(times, 1, #times, 1, {})
  table.sort(sorted)
  return math.max(#times + 1, math.floor(seconds / sorted[(#sorted + 1) // 2]))
end

-- ---- what a run left ----

local function a_kind(value)
  return value == nil and "nothing" or "a " .. pf.kind(value)
end

--- A model from FILE.lua, which returns function(options) -> model. A mistake inside the file
-- raises; nil, message when the file can't be had or gives no model.
function trainer.model_from(path, options)
  local chunk, message = loadfile(path)
  if not chunk then return nil, message end
  local make = chunk()
  if type(make) ~= "function" then
    return nil, ("%s: must return function(options) -> model, not %s"):format(path, a_kind(make))
  end
  local model = make(options)
  local kind = pf.kind(model)
  if kind ~= "module" and not (kind == "table" and type(model.forward) == "function") then
    return nil, ("%s: its function must return a model, not %s"):format(path, a_kind(model))
  end
  return pf.nn.parameters_of(model)
end

--- The name of the tokenizer that a checkpoint was saved with, or nil.
function trainer.tokenizer_name(saved)
  local tokenizer = saved.tokenizer
  if type(tokenizer) == "table" then tokenizer = tokenizer.type end
  return type(tokenizer) == "string" and tokenizer or nil
end

--- Is it trained to fill masks, and not to go on?
function trainer.is_masked(saved)
  local settings = saved.state and saved.state.settings
  if settings and settings.bidirectional ~= nil then return settings.bidirectional end
  return saved.model:type() == "performer" and not saved.model:options().causal
end

--- Turns option `recompute` on in every node of a model's tree that knows it, but for chains.
local function recompute_blocks(node)
  if node.type == "performer" or node.type == "block" then node.options.recompute = true end
  for _, child in ipairs(node.children or {}) do recompute_blocks(child) end
  return node
end

local function open_saved(path, options)
  local plain = options.optimizer and not options.recompute
  local saved, message = pf.checkpoint.load(path, not plain and { optimizer = false } or nil)
  if not saved and message:find "lives in a script" then
    message = message:gsub("; load this model.*", "; name that script with --model FILE.lua")
  end
  if not saved or not options.recompute then return saved, message end
  local model = pf.nn.build(recompute_blocks(saved.model:tree()))
  local settings = saved.state and saved.state.settings
  return pf.checkpoint.load(path, { model = model, optimizer = settings and options.optimizer
    and options.optimizer(model, settings) or nil })
end

--- Opens a run or checkpoint folder: { model, optimizer, state, tokenizer }; nil, message.
-- options: script (a FILE.lua that makes the model), optimizer (function(model, settings) that
-- makes the one to load into; false: without), recompute (true: whatever the model was saved
-- with).
function trainer.open(path, options)
  if not options.script then return open_saved(path, options) end
  local info, message = pf.inspect(path)
  if not info then return nil, message end
  local tokenizer = trainer.tokenizer_name(info)
  if not info.state then
    return nil, ("%s: is no checkpoint folder, so no model can be loaded from it"):format(path)
  end
  local settings = info.state.state and info.state.state.settings or {}
  local wanted = { vocab = tokenizer and pf.tokenizer[tokenizer]():size() or nil }
  for key, value in pairs(settings) do wanted[key] = value end
  wanted.recompute = options.recompute or wanted.recompute
  local model
  model, message = trainer.model_from(options.script, wanted)
  if not model then return nil, message end
  return pf.checkpoint.load(path, {
    model = model, optimizer = options.optimizer and options.optimizer(model, settings) or nil })
end

--- The run folder of what --resume names: a run folder, run/step-N, or run/BEST; nil, message.
function trainer.run_folder(path)
  path = #path > 1 and path:gsub("/+$", "") or path
  local mode, message = lfs.attributes(path, "mode")
  if not mode then return nil, ("%s: %s"):format(path, message:match "[^:]*$":gsub("^ ", "")) end
  local inner = mode ~= "directory" or lfs.attributes(path .. "/manifest.json", "mode")
  if not inner then return path end
  local parent, name = path:match "^(.-)/?([^/]+)$"
  if mode == "directory" and not name:match "^step%-%d+$" then
    return nil, ("%s: stands alone, not in a run folder; say with --out FOLDER where to go on")
      :format(path)
  end
  return parent == "" and (path:sub(1, 1) == "/" and "/" or ".") or parent
end

-- ---- a run: log and picture ----

local Run = {}
Run.__index = Run

--- The log records up to `step`, whole lines only: a killed run may leave half of one, and
-- steps beyond its last checkpoint.
local function earlier(path, step)
  local records = {}
  local file = io.open(path, "rb")
  if not file then return records end
  for line in file:lines() do
    local record = pf.json.decode(line)
    if type(record) == "table" and math.tointeger(record.step) and record.step <= step and
        not record.final then
      records[#records + 1] = record
    end
  end
  file:close()
  return records
end

--- Opens a run folder's log. options: dir, json (function that prints a record too), step (go
-- on after this step: what the log says beyond it goes), from (folder whose log to take over).
-- nil, message.
function trainer.run(options)
  local path = options.dir .. "/log.jsonl"
  local run = setmetatable({ dir = options.dir, json = options.json, train = {}, valid = {} }, Run)
  local records = options.step and earlier((options.from or options.dir) .. "/log.jsonl",
                                           options.step) or {}
  local file, message = io.open(path .. ".tmp", "w")
  if not file then return nil, ("can't write the log: %s"):format(message) end
  for _, record in ipairs(records) do
    file:write(pf.json.encode(record), "\n")
    run:remember(record)
  end
  local ok
  ok, message = file:close()
  if ok then ok, message = os.rename(path .. ".tmp", path) end
  if ok then run.file, message = io.open(path, "a") end
  if not run.file then
    os.remove(path .. ".tmp")
    return nil, ("can't write the log: %s"):format(message)
  end
  return run
end

--- Takes a record's points for the picture.
function Run:remember(record)
  local loss = record.smoothed or record.loss
  if loss then self.train[#self.train + 1] = { record.step, loss } end
  if record.valid_loss then self.valid[#self.valid + 1] = { record.step, record.valid_loss } end
end

--- Appends a record to the log, and prints it when asked to; true, or nil, message.
function Run:log(record)
  self:remember(record)
  local ok, message = self.file:write(pf.json.encode(record), "\n")
  if ok then ok, message = self.file:flush() end
  if not ok then return nil, ("%s/log.jsonl: %s"):format(self.dir, message) end
  if self.json then self.json(record) end
  return true
end

--- At most `most` of the points, evenly taken, with the last.
local function thin(points, most)
  local stride = math.ceil(#points / most)
  if stride <= 1 then return points end
  local some = {}
  for i = 1, #points, stride do some[#some + 1] = points[i] end
  if some[#some] ~= points[#points] then some[#some + 1] = points[#points] end
  return some
end

--- The curve without the plunge of its first 3 %, which would flatten all the rest.
local function settled(points)
  local last, kept = #points > 0 and points[#points][1] or 0, {}
  for _, point in ipairs(points) do
    if point[1] >= 0.03 * last then kept[#kept + 1] = point end
  end
  return kept
end

--- The loss curve as loss.svg; its path, or nil, message. `baselines`: { name = loss in nats }.
function Run:draw(title, baselines)
  local series = { { name = "training", points = thin(settled(self.train), 600) },
                   { name = "held out", points = thin(self.valid, 60), marks = true } }
  local last = 1
  for _, line in ipairs(series) do
    if #line.points > 0 then last = math.max(last, line.points[#line.points][1]) end
  end
  for name, loss in pf.sorted(baselines or {}) do
    series[#series + 1] = { name = name, points = { { 0, loss }, { last, loss } }, dashed = true }
  end
  local path = self.dir .. "/loss.svg"
  local file, message = io.open(path .. ".tmp", "w")
  if not file then return nil, message end
  local ok
  ok, message = file:write(svg.chart { title = title, x = "step", y = "nats a token",
                                       series = series })
  local closed, why = file:close()
  if ok and not closed then ok, message = nil, why end
  if ok then ok, message = os.rename(path .. ".tmp", path) end
  if ok then return path end
  os.remove(path .. ".tmp")
  return nil, ("%s: %s"):format(path, message)
end

function Run:close() self.file:close() end

trainer.Progress = Progress

return trainer
