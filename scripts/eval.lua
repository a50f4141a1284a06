--- performer eval - loss per token of a trained model on a file. Every record of the file counts,
-- copies of others, too; of --split train and valid those that the run was trained and held on.
local cli = require "kit.cli"
local data_options = require "kit.data_options"
local evaluate = require "kit.evaluate"
local pf = require "performer"
local Progress = require "kit.progress"
local saved = require "kit.saved"

local ROWS = {
  { "checkpoint", "folder", nil, "run folder or checkpoint folder" },
  { "split", { "all", "train", "valid" }, "all", "which part of the file: every record, or one "
    .. "side of the split that training makes, where copies count once" },
  { "model", "file", nil, "the Lua file of a model that has layers in Lua" },
  { "length", "positive", nil, "tokens a row (default: as trained)" },
  { "batch", "positive", 8, "rows at a time" },
  data_options.TOKENIZER,
  { "threads", "positive", nil, "threads (default: all cores)" },
  { "memory", "text", nil, "byte budget, such as 4G" },
  { "per-sequence", "flag", nil, "one line for each sequence, in the order of the file" },
  { "json", "flag", nil, "JSON lines on stdout" },
}
for i, row in ipairs(data_options.rows "FASTA or text") do table.insert(ROWS, i + 1, row) end

-- ---- one sequence ----

--- Longer ones go through the model's stream, a piece at a time: the logits of a whole book
-- would not fit.
local PIECE = 4096

--- Adds the sum of the losses, the hits and the count of one piece.
local function add(sums, logits, target)
  local n = target:numel()
  sums.loss = sums.loss + logits:cross_entropy(target):item() * n
  sums.right = sums.right + evaluate.hits(logits, target)
  sums.tokens = sums.tokens + n
end

--- Next-token losses of ids first .. last, which begin anew at `first`.
local function score_part(model, ids, first, last, sums)
  local state = last - first >= PIECE and model:state { batch = 1 }
  for from = first, last, PIECE do
    local to = math.min(from + PIECE - 1, last)
    local input = ids:slice(1, from, to):reshape(1, -1)
    local target = ids:slice(1, from + 1, to + 1):reshape(1, -1)
    add(sums, state and model:prefill(input, state) or model(input), target)
    collectgarbage()
  end
end

--- Next-token losses of ids (n): n - 1 of them, in parts of so many as the model has positions.
local function score_causal(model, ids, sums, room)
  local n = ids:numel() - 1
  for first = 1, n, math.max(1, math.min(room, n)) do
    score_part(model, ids, first, math.min(first + room - 1, n), sums)
  end
end

--- One letter in HIDE_EVERY is hidden at a time, until each has been hidden once.
local HIDE_EVERY = 7

--- HIDE_EVERY copies of the ids, each with other letters masked, and the targets.
local function masked_rows(ids, tokenizer)
  local mask, kept = tokenizer:special "mask", {}
  for _, name in ipairs { "begin", "end", "pad" } do kept[tokenizer:special(name) or -1] = true end
  local inputs, targets, n = {}, {}, 0
  for row = 1, HIDE_EVERY do
    local input, target = {}, {}
    for i, id in ipairs(ids) do
      local hide = i % HIDE_EVERY == row - 1 and not kept[id]
      input[i], target[i] = hide and mask or id, hide and id or -1
      n = n + (hide and 1 or 0)
    end
    inputs[row], targets[row] = input, target
  end
  return pf.tensor(inputs, { dtype = "i32" }), pf.tensor(targets, { dtype = "i32" }), n
end

--- Losses of the hidden letters of ids (n), in pieces of `length`.
local function score_masked(model, ids, sums, tokenizer, length)
  local all = ids:totable()
  for first = 1, #all, length do
    local piece = table.move(all, first, math.min(first + length - 1, #all), 1, {})
    local input, target, n = masked_rows(piece, tokenizer)
    if n > 0 then
      local logits = model(input)
      sums.loss = sums.loss + logits:cross_entropy(target):item() * n
      sums.right = sums.right + evaluate.hits(logits, target)
      sums.tokens = sums.tokens + n
    end
    collectgarbage()
  end
end

local function print_sequence(name, sums, seconds, json)
  local loss = sums.loss / sums.tokens
  local record = { name = name, loss = loss, perplexity = evaluate.perplexity(loss),
                   accuracy = sums.right / sums.tokens, tokens = sums.tokens,
                   tokens_per_s = sums.tokens / math.max(seconds, 1e-9) }
  if json then return cli.print_json(record) end
  cli.write(("%-24s loss %.4f  perplexity %8.3f  accuracy %6.2f %%  tokens %d\n"):format(
    cli.plain(name), loss, record.perplexity, 100 * record.accuracy, sums.tokens))
end

local function per_sequence(opened, data, options, masked, length)
  local room, told = opened.model:longest(), false
  for i = 1, data:info(options.split).documents do
    local ids, name = data:document(i, options.split)
    local sums, start = { loss = 0, right = 0, tokens = 0 }, pf.clock()
    if not told and ids:numel() - 1 > room then
      cli.say("eval: of sequences of more than %d tokens each part of so many is measured by "
        .. "itself: the model's learned positions end there", room)
      told = true
    end
    if masked then
      score_masked(opened.model, ids, sums, data:tokenizer(), length)
    else
      score_causal(opened.model, ids, sums, room)
    end
    if sums.tokens > 0 then print_sequence(name, sums, pf.clock() - start, options.json) end
    if pf.interrupted() then cli.fail(130, "eval: interrupted") end
  end
end

-- ---- the whole file ----

local function whole_file(opened, data, options, masked)
  local progress = Progress.new { live = pf.term.colour(2), clock = pf.clock, late = true,
                                          name = "batch",
                                          width = function() return pf.term.width(2) end }
  local result = evaluate.run(opened.model, data, {
    split = options.split, batch = options.batch, masked = masked, stop = pf.interrupted,
    each = function(batch, batches)
      progress.total = batches
      progress:show(batch, {})
    end })
  progress:finish()
  if not result then cli.fail(130, "eval: interrupted") end
  result.tokens_per_s = result.tokens / math.max(result.seconds, 1e-9)
  if options.json then return cli.print_json(result) end
  cli.write(("loss %.4f nats a token  perplexity %.3f  accuracy %.2f %%  tokens %d  "
    .. "%.0f tokens/s\n"):format(result.loss, result.perplexity, 100 * result.accuracy,
                                 result.tokens, result.tokens_per_s))
end

local function check_tokenizer(opened, data, options)
  local name = data_options.tokenizer_name("eval", saved.tokenizer_name(opened), options)
  local info = data:info "all"
  if name ~= info.tokenizer then
    cli.fail(1, ("eval: the model reads %s tokens, but %s is %s; give it %s"):format(name,
      options.data, info.format, name == "protein" and "a FASTA file"
      or "a text file, or say --format text"))
  end
end

--- The data, in rows of --length, or of the length of training, but no longer than the data, or
-- the model's learned positions, are.
local function open_data(options, settings, model)
  local room = model:longest()
  if options.length and options.length > room then
    cli.fail(2, ("eval: --length %d: the model's learned positions end at %d; take --length %d or "
      .. "less"):format(options.length, room, room))
  end
  local part = options.split ~= "all"
  if options.format == "auto" then options.format = settings.format end
  if part then options.skip_bad = options.skip_bad or settings.skip_bad end
  local command = "eval --checkpoint " .. cli.quote(options.checkpoint)
  local data = data_options.open(command, options, {
    seed = settings.seed, split = not part and "none" or nil, unique = part, min_tokens = 1 })
  local longest = data_options.longest_row(data, options.split)
  if options.length and options.length > longest then
    cli.say("eval: --length %d is more than %s holds; a row has all of its %d tokens",
            options.length, options.data, longest)
  end
  local length = math.min(options.length or settings.length or 1024, room)
  data_options.lay(data, math.max(2, math.min(length, longest)))
  local info = data:info(options.split)
  if info.tokens == 0 then
    cli.fail(1, ("eval: %s has no token to predict%s"):format(options.data,
      part and " in this part" or ": 2 are needed"))
  end
  if info.duplicates > 0 then
    cli.say("eval: %d copies of sequences count once, as in training", info.duplicates)
  end
  options.batch = math.min(options.batch, info.rows)
  return data, length
end

local function main()
  local parser = cli.add(cli.parser("eval", "Measures a trained model on a file.", {
    "performer eval --checkpoint runs/proteins --data other.fasta",
    "performer eval --checkpoint runs/proteins --data other.fasta --per-sequence --json",
    "performer eval --checkpoint runs/book/BEST --data book.txt --split valid",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  if not options.checkpoint or not options.data then
    cli.fail(2, "eval: needs --checkpoint FOLDER and --data FILE")
  end
  cli.try(2, pf.open, { threads = options.threads, memory = options.memory })
  local opened = cli.need(saved.open(options.checkpoint, { script = options.model }))
  local settings = opened.state and opened.state.settings or {}
  local data, length = open_data(options, settings, opened.model)
  check_tokenizer(opened, data, options)
  local masked = saved.is_masked(opened)
  if options.per_sequence then
    per_sequence(opened, data, options, masked, length)
  else
    whole_file(opened, data, options, masked)
  end
end

cli.main(main)
