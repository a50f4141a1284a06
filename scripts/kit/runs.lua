--- runs.lua - reading what runs of `train` left: log, settings, figures, and what has to be known
-- before two of them are held against each other. For `compare` and `report`.
local cli = require "kit.cli"
local lfs = require "lfs"
local pf = require "performer"
local saved = require "kit.saved"
local train_options = require "kit.train_options"

local runs = {}

-- ---- one run ----

--- The records of a log, its last one apart: records, final, and how many lines were none.
local function read_log(path)
  local records, final, broken = {}, nil, 0
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  for line in file:lines() do
    local record = pf.json.decode(line)
    local good = type(record) == "table" and math.tointeger(record.step)
    if good and record.final then final = record
    elseif good then records[#records + 1] = record
    elseif #line > 0 then broken = broken + 1 end
  end
  file:close()
  return records, final, broken
end

--- Where a run began, went on, or was given other data: its records that tell of data.
local function beginnings(records)
  local list = {}
  for i, record in ipairs(records) do
    if type(record.data) == "table" then
      list[#list + 1] = { step = i == 1 and 0 or records[i - 1].step, data = record.data,
                          command = record.command, machine = record.machine }
    end
  end
  return list
end

--- What the newest checkpoint says, without its tensors: { info, state, settings, tokenizer }, all
-- nil where there is none.
local function read_checkpoint(dir)
  local info, message = pf.inspect(dir)
  if not info then return { message = message } end
  local state = info.state and info.state.state or {}
  local settings = state.settings and train_options.saved(state.settings)
  return { info = info, state = state, settings = settings,
           tokenizer = saved.tokenizer_name(info) }
end

--- Of several held-out losses in passing the best one's record.
local function best_record(records)
  local best
  for _, record in ipairs(records) do
    if record.valid_loss and not (best and best.valid_loss <= record.valid_loss) then
      best = record
    end
  end
  return best
end

local function median(values)
  if #values == 0 then return nil end
  table.sort(values)
  return values[(#values + 1) // 2]
end

--- The figures that runs are compared by. The held-out loss is of the whole part where the run has
-- ended, else the last in passing.
local function figures_of(run)
  local final, last, judged, rates = run.final or {}, run.records[#run.records], nil, {}
  for _, record in ipairs(run.records) do
    if record.valid_loss then judged = record end
    if record.step > 1 then rates[#rates + 1] = record.tokens_per_s end
  end
  local loss = final.valid_loss or judged and judged.valid_loss
  local info = run.checkpoint.info
  return { step = final.step or last.step, steps = final.steps or last.steps,
           train_loss = final.train_loss or last.smoothed or last.loss, valid_loss = loss,
           valid_perplexity = final.valid_perplexity or loss and math.exp(loss),
           valid_accuracy = final.valid_accuracy,
           best_loss = run.best and run.best.valid_loss, best_step = run.best and run.best.step,
           tokens_per_s = median(rates) or last.tokens_per_s,
           bytes_peak = final.bytes_peak or last.bytes_peak,
           params = final.params or info and info.params,
           seconds = final.seconds or last.seconds,
           judged_step = not run.final and judged and judged.step or nil }
end

--- What a reader has to know of a run before its figures, a list of sentences.
local function notes_of(run)
  local notes, last = {}, run.records[#run.records]
  if run.broken > 0 then
    notes[#notes + 1] = ("log.jsonl has lines that are no records: %d"):format(run.broken)
  end
  for i = 2, #run.beginnings do
    local from = run.beginnings[i]
    local other = from.data.checksum ~= run.beginnings[i - 1].data.checksum
      or from.data.valid_tokens ~= run.beginnings[i - 1].data.valid_tokens
    notes[#notes + 1] = ("went on after step %d%s"):format(from.step,
      other and " with other data" or "")
  end
  local stopped = run.final and run.final.stopped
  if stopped then
    notes[#notes + 1] = ("ended at step %d of %s: %s"):format(run.final.step,
      run.final.steps or "?", stopped)
  end
  if run.final and run.final.sample then
    notes[#notes + 1] = ("was judged on a sample of the held-out part, %s tokens"):format(
      run.final.tokens)
  end
  if not run.final then
    notes[#notes + 1] = ("is not finished: step %d of %s%s"):format(last.step, last.steps or "?",
      run.figures.judged_step and (", held out of step %d and %s"):format(run.figures.judged_step,
      "some rows") or "")
  end
  if not run.settings then notes[#notes + 1] = "has no checkpoint that tells its settings" end
  return notes
end

--- The last part of a folder's path; of "." the folder's own.
local function name_of(dir)
  local whole = dir:match "^%./*$" and lfs.currentdir() or dir
  return cli.utf8(whole:match "([^/]+)/*$" or dir)
end

--- A run, of its folder or of a checkpoint in it: { dir, name, records, final (a record),
-- broken, beginnings, checkpoint, settings, tokenizer, figures, best, notes }; nil, message.
function runs.read(path)
  local dir, message = saved.run_folder(path)
  if not dir then return nil, message end
  local records, final, broken = read_log(dir .. "/log.jsonl")
  if not records then
    if lfs.attributes(path, "mode") == "file" then
      return nil, path .. ": is a file, and holds no run; name a run folder"
    end
    local is_folder = lfs.attributes(dir, "mode") == "directory"
    return nil, is_folder and dir .. ": holds no run: there is no log.jsonl in it" or final
  end
  if #records == 0 then return nil, dir .. "/log.jsonl: holds no step" end
  local run = { dir = dir, name = name_of(dir), records = records,
                final = final, broken = broken, beginnings = beginnings(records),
                checkpoint = read_checkpoint(dir) }
  run.settings, run.tokenizer = run.checkpoint.settings, run.checkpoint.tokenizer
  run.best = best_record(records)
  run.figures = figures_of(run)
  run.notes = notes_of(run)
  return run
end

-- ---- several ----

--- Names that tell runs apart: the last parts of their folders, as many as it takes.
function runs.name(list)
  local seen = {}
  for _, run in ipairs(list) do seen[run.name] = (seen[run.name] or 0) + 1 end
  for _, run in ipairs(list) do
    if seen[run.name] > 1 then run.name = cli.utf8((run.dir:gsub("/+$", ""))) end
  end
end

--- Of how much of the held-out part a run's loss is, where that is not all: ", ..." or "".
local function share_of(run, data)
  if run.final then
    return run.final.sample and (", a sample of %d tokens"):format(run.final.tokens) or ""
  end
  local judged
  for _, record in ipairs(run.records) do judged = record.valid_loss and record or judged end
  return judged and judged.valid_tokens ~= data.valid_tokens and ", some rows" or ""
end

--- What a run's held-out losses are of; two that say the same can be held against each other.
local function measure_of(run)
  local data = run.beginnings[#run.beginnings]
  data = data and data.data or {}
  local settings = run.settings or {}
  return {
    { "tokens", run.tokenizer or "?" },
    { "data", data.checksum or "?" },
    { "held-out part", ("%s of %s%s"):format(cli.count(data.valid_tokens or "?", "token"),
      cli.count(data.valid_documents or "?", "document"), share_of(run, data)) },
    { "what is asked", settings.bidirectional == nil and "?" or settings.bidirectional
      and "masked letters" or "the next token" },
  }
end

--- Why the losses of runs can't be held against each other, in words; nil: they can.
function runs.incomparable(list)
  local first, why = measure_of(list[1]), {}
  for i, part in ipairs(first) do
    for j = 2, #list do
      if measure_of(list[j])[i][2] ~= part[2] then
        why[#why + 1] = part[1]
        break
      end
    end
  end
  return #why > 0 and ("losses are not comparable: the runs differ in %s"):format(
    table.concat(why, ", ")) or nil
end

-- What follows from other settings, or from the machine, and what the picture's title says.
local DERIVED = { own_warmup = true, valid_batches = true, final_batches = true, keep = true,
                  save_minutes = true,
                  tensorboard = true, ["model.vocab"] = true, ["model.length"] = true,
                  ["optimizer_options.lr"] = true, ["optimizer_options.decay"] = true,
                  ["model.causal"] = true, log_every = true,
                  ["model.kernel.name"] = true, ["model.attention"] = true }

--- Nested settings as one table of texts by dotted names.
local function flat(value, name, into)
  if type(value) ~= "table" then
    into[name] = math.type(value) == "float" and ("%.6g"):format(value) or tostring(value)
  elseif #value > 0 and type(value[1]) ~= "table" then
    local parts = {}
    for i, part in ipairs(value) do parts[i] = tostring(part) end
    into[name] = table.concat(parts, " ")
  else
    for key, inner in pairs(value) do
      flat(inner, name == "" and tostring(key) or name .. "." .. key, into)
    end
  end
  return into
end

--- All settings of a run as texts by dotted names; derived ones too, with `all`.
function runs.settings(run, all)
  local texts = flat(run.settings or {}, "", {})
  for name in pairs(all and {} or DERIVED) do texts[name] = nil end
  local words = {}
  for name, text in pairs(texts) do -- of two `decay`s one is the model's
    local word = name:gsub("^model%.", "")
    words[texts[word] and name or word] = text
  end
  return words
end

--- The settings in which runs differ: a list of { name, value of the first, of the second ... };
-- nil where a run has none.
function runs.differences(list)
  local texts, names, rows = {}, {}, {}
  for i, run in ipairs(list) do
    texts[i] = runs.settings(run)
    for name in pairs(texts[i]) do names[name] = true end
  end
  for name in pf.sorted(names) do
    local row, differs = { name }, false
    for i = 1, #list do
      row[i + 1] = texts[i][name]
      differs = differs or row[i + 1] ~= row[2]
    end
    if differs then rows[#rows + 1] = row end
  end
  return rows
end

-- ---- numbers for people ----

--- 1234567 -> "1,234,567".
function runs.grouped(n)
  local text = ("%.0f"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

--- 5496164 -> "5.2 MiB".
function runs.size(bytes)
  local units, i = { "B", "KiB", "MiB", "GiB", "TiB" }, 1
  while bytes >= 1024 and i < #units do bytes, i = bytes / 1024, i + 1 end
  return (i == 1 and "%.0f %s" or "%.1f %s"):format(bytes, units[i])
end

--- The figures that are told, in order: { field, what it is called, its value as a text, "least" or
-- "most" where one is the best, of_losses: only where losses are comparable }; same: a figure that
-- all must have alike before one is the best.
runs.FIGURES = {
  { "valid_loss", "held-out loss", function(x) return ("%.4f"):format(x) end, "least", true },
  { "valid_perplexity", "perplexity", function(x) return ("%.3f"):format(x) end, "least", true },
  { "valid_accuracy", "accuracy", function(x) return ("%.2f %%"):format(100 * x) end, "most",
    true },
  { "best_loss", "best in passing", function(x) return ("%.4f"):format(x) end, "least", true },
  { "train_loss", "training loss", function(x) return ("%.4f"):format(x) end, "least", true },
  { "step", "step", runs.grouped },
  { "params", "parameters", runs.grouped },
  { "tokens_per_s", "tokens/s", runs.grouped, "most" },
  { "bytes_peak", "bytes, peak", runs.size, "least" },
  { "seconds", "seconds", function(x) return ("%.1f"):format(x) end, "least", same = "step" },
}

--- Which runs have the best of a figure, a set of their places; none where all have the same.
function runs.best_of(list, figure)
  local field, way, best, worst = figure[1], figure[4], nil, nil
  if not way then return {} end
  for _, run in ipairs(figure.same and list or {}) do
    if run.figures[figure.same] ~= list[1].figures[figure.same] then return {} end
  end
  local sign = way == "most" and -1 or 1
  for _, run in ipairs(list) do
    local value = run.figures[field]
    if value then
      best, worst = math.min(best or math.huge, sign * value),
        math.max(worst or -math.huge, sign * value)
    end
  end
  local places = {}
  for i, run in ipairs(list) do
    local value = run.figures[field]
    places[i] = value and best < worst and sign * value == best or nil
  end
  return places
end

return runs
