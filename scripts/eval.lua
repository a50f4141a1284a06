--- performer eval - loss per token of a trained model on a file. Every record of the file counts,
-- copies of others, too; of --split train and valid those that the run was trained and held on.
local carried = require "kit.carried"
local checkpoint_share = require "kit.checkpoint_share"
local cli = require "kit.cli"
local data_options = require "kit.data_options"
local engine = require "kit.engine"
local evaluate = require "kit.evaluate"
local pf = require "performer"
local Progress = require "kit.progress"
local ranks = require "kit.ranks"
local run_data = require "kit.run_data"
local saved = require "kit.saved"
local sequences = require "kit.sequences"

local ROWS = {
  { "checkpoint", "folder", nil, "run folder or checkpoint folder" },
  { "split", { "all", "train", "valid" }, "all", "which part of the file: every record, or one "
    .. "side of the split that training makes, where copies count once" },
  { "model", "file", nil, "the Lua file of a model that has layers in Lua" },
  saved.AVERAGE,
  { "length", "positive", nil, "tokens a row (default: as trained)" },
  { "batch", "positive", nil, "rows at a time", 8 },
  { "carry", "positive", nil, "rows go on from so many positions before them: windows by their "
    .. "keys, linear attention by its sums, so that a token is scored with all that it can see; "
    .. "--batch rows in as many streams (default: one)" },
  data_options.TOKENIZER,
  engine.threads(),
  engine.memory(),
  ranks.TIMEOUT,
  { "per-sequence", "flag", nil, "one line for each sequence, in the order of the file" },
  { "json", "flag", nil, "JSON lines on stdout", own = true },
}
for i, row in ipairs(data_options.rows "FASTA or text, or several files") do
  if row[1] == "data" then row.many = "words" end
  table.insert(ROWS, i + 1, row)
end
cli.place(ROWS, { "checkpoint", "run" }, { "data", "file" })

-- ---- one sequence ----

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
    local sums, start = sequences.sums(), pf.clock()
    if not told and ids:numel() - 1 > room then
      cli.say("eval: of sequences of more than %d tokens each part of so many is measured by "
        .. "itself: the model's learned positions end there", room)
      told = true
    end
    if masked then
      sequences.masked(opened.model, ids, sums, data:tokenizer(), length)
    else
      sequences.causal(opened.model, ids, sums, room)
    end
    sequences.check_number("eval", opened.model, sums.loss, name, ids)
    if sums.tokens > 0 then print_sequence(name, sums, pf.clock() - start, options.json) end
    if pf.interrupted() then cli.fail(130, "eval: interrupted") end
  end
end

-- ---- the whole file ----

local function whole_file(opened, data, options, masked)
  local progress = Progress.new { live = pf.term.colour(2), clock = pf.clock, late = true,
                                  silent = not ranks.first(), name = "batch",
                                  width = function() return pf.term.width(2) end }
  local result = evaluate.run(opened.model, data, {
    split = options.split, batch = options.batch, masked = masked, stop = pf.interrupted,
    carry = options.carry,
    each = function(batch, batches)
      progress.total = batches
      progress:show(batch, {})
    end })
  progress:finish()
  if not result then cli.fail(130, "eval: interrupted") end
  if result.loss ~= result.loss or result.loss == math.huge then
    sequences.check_number("eval", opened.model, result.loss, run_data.label(options),
                           (data:document(1, options.split)))
  end
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
      run_data.label(options), info.format, name == "protein" and "a FASTA file"
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
  local how = part and run_data.held_out(settings) or { seed = settings.seed, split = "none" }
  how.unique, how.min_tokens = part, 1
  local data = data_options.open(command, options, how)
  local longest = data_options.longest_row(data, options.split)
  if options.length and options.length > longest then
    cli.say("eval: --length %d is more than %s holds; a row has all of its %s",
            options.length, run_data.label(options), cli.count(longest, "token"))
  end
  local own = model:type() == "performer" and model:options().length -- of a model that was shipped
  local length = math.min(options.length or settings.length or own or 1024, room)
  -- Of a file with too little in it the row is not what is wrong.
  data_options.lay(data, math.min(length, math.max(2, longest)))
  local info = data:info(options.split)
  if info.tokens == 0 then
    cli.fail(1, ("eval: %s has no token to predict%s"):format(
      run_data.label(options),
      part and " in this part" or ": 2 are needed"))
  end
  if info.duplicates > 0 then
    cli.say("eval: copies of sequences count once, as in training: %d", info.duplicates)
  end
  options.batch = math.min(options.batch or (options.carry and 1 or 8), info.rows)
  return data, length
end

local function main()
  local parser = cli.add(cli.parser("eval", "Measures a trained model on a file.", {
    "performer eval runs/proteins other.fasta",
    "performer eval runs/proteins other.fasta --per-sequence --json",
    "performer eval runs/book/BEST book.txt --split valid",
  }), ROWS)
  local options, given = cli.parse(parser, ROWS, arg)
  run_data.settle(options)
  saved.check_run("eval", options)
  if not options.checkpoint or not options.data then
    cli.fail(2, "eval: needs --checkpoint FOLDER and --data FILE, or short: eval RUN FILE")
  end
  engine.open(options)
  ranks.need("eval", ROWS, options, given)
  if ranks.several() and (options.per_sequence or options.carry) then
    cli.fail(2, ("eval: --%s goes from one place in the file to the next; start it without mpirun")
      :format(options.carry and "carry" or "per-sequence"))
  end
  local opened = cli.need(checkpoint_share.open(options.checkpoint, {
    script = options.model, average = options.average ~= false }))
  if opened.averaged then cli.say("eval: of the average of the weights (--ema)") end
  local settings = opened.state and opened.state.settings or {}
  local data, length = open_data(options, settings, opened.model)
  check_tokenizer(opened, data, options)
  run_data.check_everywhere("eval", run_data.fingerprint(data, options.split))
  local masked = saved.is_masked(opened)
  if options.carry and (masked or options.per_sequence) then
    cli.fail(2, masked and "eval: --carry is for causal models, and this one is masked"
      or "eval: --carry reads a file as one stream, --per-sequence each for itself: give one")
  end
  carried.describe(opened.model, options, "eval")
  if options.per_sequence then
    per_sequence(opened, data, options, masked, length)
  else
    whole_file(opened, data, options, masked)
  end
end

cli.main(main)
