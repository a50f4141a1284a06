--- sequences.lua - what the commands that look at one sequence after the other share: opening a
-- model and a file for them, and the loss of a sequence, causal or masked.
local cli = require "kit.cli"
local data_options = require "kit.data_options"
local engine = require "kit.engine"
local pf = require "performer"
local saved = require "kit.saved"

local sequences = {}

-- ---- opening ----

--- Options that every such command has.
function sequences.rows(what)
  local rows = {
    { "checkpoint", "folder", nil, "run folder or checkpoint folder" },
    { "model", "file", nil, "the Lua file of a model that has layers in Lua" },
    saved.AVERAGE,
    data_options.TOKENIZER,
    engine.threads(),
    engine.memory(),
    { "json", "flag", nil, "JSON lines on stdout" },
  }
  for i, row in ipairs(what and data_options.rows(what) or {}) do table.insert(rows, i + 1, row) end
  return rows
end

--- The model of --checkpoint: { model, tokenizer (its object), name (of the tokenizer), masked,
-- length (of its training rows), settings }.
function sequences.open_model(command, options)
  saved.check_run(command, options)
  if not options.checkpoint then
    cli.fail(2, ("%s: needs --checkpoint FOLDER, or short: %s RUN ..."):format(command, command))
  end
  engine.open { threads = options.threads, memory = options.memory }
  local opened = cli.need(saved.open(options.checkpoint, {
    script = options.model, average = options.average ~= false }))
  if opened.averaged then cli.say("%s: of the average of the weights (--ema)", command) end
  local settings = opened.state and opened.state.settings or {}
  local name = data_options.tokenizer_name(command, saved.tokenizer_name(opened), options)
  return { model = opened.model, tokenizer = pf.tokenizer[name](), name = name,
           masked = saved.is_masked(opened), settings = settings,
           length = math.min(settings.length or 1024, opened.model:longest()) }
end

--- The whole file that --data names, each record as often as it stands there.
function sequences.open_data(command, options, opened)
  if options.format == "auto" then options.format = opened.settings.format or "auto" end
  local data = data_options.open(command, options, { split = "none", unique = false,
                                                     min_tokens = 1 })
  local info = data:info "all"
  if info.tokenizer ~= opened.name then
    cli.fail(1, ("%s: the model reads %s tokens, but %s is %s; give it %s"):format(command,
      opened.name, options.data, info.format, opened.name == "protein" and "a FASTA file"
      or "a text file, or say --format text"))
  end
  return data
end

--- Calls f(ids, name) for every record; a message on stderr for the first of those that are longer
-- than the model's positions.
function sequences.each(command, data, room, f)
  local told = false
  for i = 1, data:info("all").documents do
    local ids, name = data:document(i, "all")
    if not told and ids:numel() - 1 > room then
      told = true
      cli.say("%s: of sequences of more than %d tokens each part of so many stands by itself: the "
        .. "model's learned positions end there", command, room)
    end
    f(ids, name)
    if pf.interrupted() then cli.fail(130, command .. ": interrupted") end
  end
end

--- Ids of the tokenizer's marks, which stand for no letter: { [id] = true }.
function sequences.marks(tokenizer)
  local marks = {}
  for _, name in ipairs { "begin", "end", "pad", "mask" } do
    local id = tokenizer:special(name)
    if id and tokenizer:special "begin" then marks[id] = true end -- bytes have no such marks
  end
  return marks
end

--- Ends the command where what a model says of the sequence `name` is no number, and names the
-- layer where one of ids (n) first has none.
function sequences.check_number(command, model, number, name, ids)
  if number == number and math.abs(number) < math.huge then return end
  ids = ids:reshape(-1)
  local some = ids:slice(1, 1, math.min(ids:numel(), 512, model:longest())):reshape(1, -1)
  local called, fine, where = pcall(pf.check.finite, function() model(some) end)
  cli.fail(1, ("%s: what the model says of '%s' is %s%s; its weights are no good, or far too "
    .. "large: take another checkpoint"):format(command, cli.plain(name), number,
    called and not fine and where:gsub("^step %d+", "") or ""))
end

-- ---- losses ----

--- An empty sum of losses.
function sequences.sums() return { loss = 0, right = 0, tokens = 0 } end

--- Adds what a model makes of a batch; long rows of causal models go through it in slices.
local function add(sums, model, input, target)
  local part = model:evaluate { input = input, target = target }
  for name, value in pairs(part) do sums[name] = sums[name] + value end
  collectgarbage()
end

--- Next-token losses of ids (n): n - 1 of them, in parts of so many as the model has positions,
-- each of which begins anew.
function sequences.causal(model, ids, sums, room)
  local n = ids:numel() - 1
  for first = 1, n, math.max(1, math.min(room, n)) do
    local last = math.min(first + room - 1, n)
    add(sums, model, ids:slice(1, first, last):reshape(1, -1),
        ids:slice(1, first + 1, last + 1):reshape(1, -1))
  end
  return sums
end

--- One letter in HIDE_EVERY is hidden at a time, until each has been hidden once.
local HIDE_EVERY = 7

--- HIDE_EVERY copies of the ids, each with other letters masked, and the targets.
local function masked_rows(ids, tokenizer)
  local mask, kept = tokenizer:special "mask", {}
  for _, name in ipairs { "begin", "end", "pad" } do kept[tokenizer:special(name) or -1] = true end
  local inputs, targets = {}, {}
  for row = 1, HIDE_EVERY do
    local input, target = {}, {}
    for i, id in ipairs(ids) do
      local hide = i % HIDE_EVERY == row - 1 and not kept[id]
      input[i], target[i] = hide and mask or id, hide and id or -1
    end
    inputs[row], targets[row] = input, target
  end
  return pf.tensor(inputs, { dtype = "i32" }), pf.tensor(targets, { dtype = "i32" })
end

--- Losses of the hidden letters of ids (n), in pieces of `length`.
function sequences.masked(model, ids, sums, tokenizer, length)
  local all = ids:totable()
  for first = 1, #all, length do
    local piece = table.move(all, first, math.min(first + length - 1, #all), 1, {})
    add(sums, model, masked_rows(piece, tokenizer))
  end
  return sums
end

--- The sums of one sequence, whichever way the model was trained.
function sequences.score(opened, ids)
  local sums = sequences.sums()
  if opened.masked then
    return sequences.masked(opened.model, ids, sums, opened.tokenizer, opened.length)
  end
  return sequences.causal(opened.model, ids, sums, opened.model:longest())
end

return sequences
