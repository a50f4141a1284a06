--- performer score - the log-likelihoods of sequences under a trained model; or how much better or
-- worse than a wild type it finds each of its variants, and whether measurements agree.
local cli = require "kit.cli"
local evaluate = require "kit.evaluate"
local sequences = require "kit.sequences"
local statistics = require "kit.statistics"
local variants = require "kit.variants"

local ROWS = sequences.rows "FASTA or text (with --variants: the wild type)"
table.move({
  { "variants", "file", nil, "a table (CSV) of variants of the wild type, such as A24C or "
    .. "A24C:D30E, positions from 1" },
  { "wild", "file", nil, "FASTA of the wild type (default: --data)" },
  { "column", "name", "mutant", "the table's column of variants" },
  { "measured", "name", nil, "a column of measurements: its Spearman correlation with the scores" },
  { "offset", "signed", 0, "what is added to the table's positions" },
}, 1, 5, #ROWS + 1, ROWS)
cli.place(ROWS, { "checkpoint", "run" }, { "data", "file" })

-- ---- whole sequences ----

local function print_sequence(name, sums, json)
  local record = { name = name, loss = sums.loss / sums.tokens, log_likelihood = -sums.loss,
                   tokens = sums.tokens }
  if json then return cli.print_json(record) end
  cli.write(("%-24s log-likelihood %12.4f  loss %.4f  perplexity %8.3f  tokens %d\n"):format(
    cli.plain(name), record.log_likelihood, record.loss, evaluate.perplexity(record.loss),
    record.tokens))
end

local function score_file(options, opened)
  local data = sequences.open_data("score", options, opened)
  if opened.masked then
    cli.say "score: a masked model: each letter's loss where it is hidden (pseudo-log-likelihood)"
  end
  sequences.each("score", data, opened.model:longest(), function(ids, name)
    local sums = sequences.score(opened, ids)
    sequences.check_number("score", opened.model, sums.loss, name, ids)
    if sums.tokens > 0 then print_sequence(name, sums, options.json) end
  end)
end

-- ---- variants ----

--- The wild type: its ids and its letters.
local function read_wild(options, opened)
  options.data = options.wild or options.data
  if opened.name ~= "protein" then
    cli.fail(1, "score: --variants are of proteins, and the model reads bytes")
  end
  local data = sequences.open_data("score", options, opened)
  local count = data:info("all").documents
  if count ~= 1 then
    cli.fail(1, ("score: %s holds %d sequences; the wild type is one: name a file of it with "
      .. "--wild"):format(options.data, count))
  end
  local ids = data:document(1, "all")
  local letters = {}
  for i, id in ipairs(ids:totable()) do letters[i] = opened.tokenizer:decode { id } end
  return ids, table.move(letters, 2, #letters - 1, 1, {}) -- without begin and end
end

--- The variants of the table: { text, changes, measured }, and how many lines have none.
local function read_variants(options, letters)
  local rows, names = variants.read_table(options.variants)
  cli.check_name("column", options.column, names)
  if options.measured then cli.check_name("measured", options.measured, names) end
  local list, empty = {}, 0
  for _, row in ipairs(rows) do
    local text = row[options.column]
    if text == "" then
      empty = empty + 1
    else
      local changes, message = variants.parse(text, letters, math.tointeger(options.offset))
      if not changes then
        cli.fail(1, ("score: %s:%d: %s; check --wild, or shift positions with --offset"):format(
          options.variants, row.line, message))
      end
      list[#list + 1] = { text = text, changes = changes,
                          measured = options.measured and tonumber(row[options.measured]) }
    end
  end
  if #list == 0 then cli.fail(1, ("score: %s holds no variant"):format(options.variants)) end
  if empty > 0 then cli.say("score: %s without a variant", cli.count(empty, "line")) end
  return list
end

--- The rank correlation of scores and measurements, over those that have one.
local function agreement(list)
  local scores, measured = {}, {}
  for _, variant in ipairs(list) do
    if variant.measured then
      scores[#scores + 1], measured[#measured + 1] = variant.score, variant.measured
    end
  end
  return #scores > 1 and statistics.spearman(scores, measured) or nil, #scores
end

local function score_variants(options, opened)
  local ids, letters = read_wild(options, opened)
  local room = opened.model:longest()
  if not opened.masked and ids:numel() - 1 > room then
    cli.fail(1, ("score: the wild type has %d tokens, and the model's learned positions end at %d")
      :format(ids:numel() - 1, room))
  end
  local list = read_variants(options, letters)
  variants.score(opened, ids, list)
  for _, variant in ipairs(list) do
    sequences.check_number("score", opened.model, variant.score, variant.text, ids)
    if options.json then
      cli.print_json { mutant = variant.text, score = variant.score, measured = variant.measured }
    else
      cli.write(("%s\t%.5f%s\n"):format(cli.plain(variant.text), variant.score,
        variant.measured and ("\t%g"):format(variant.measured) or ""))
    end
  end
  if not options.measured then return end
  local rho, n = agreement(list)
  if options.json then return cli.print_json { spearman = rho, variants = #list, measured = n } end
  cli.say("Spearman %s with column %s, %d of %d variants measured", rho and ("%.4f"):format(rho)
    or "unknown", options.measured, n, #list)
end

cli.alone("score", function()
  local parser = cli.add(cli.parser("score", "Log-likelihoods of sequences, and of variants.", {
    "performer score runs/proteins some.fasta --json",
    "performer score runs/proteins --wild blat.fasta --variants blat.csv "
      .. "--measured 2500",
  }), ROWS)
  local options, given = cli.parse(parser, ROWS, arg)
  if not (options.data or options.variants and options.wild) then
    cli.fail(2, "score: needs --data FILE, or --variants FILE.csv and --wild FILE")
  end
  for _, name in ipairs { "wild", "measured", "column", "offset" } do
    if given[name] and not options.variants then
      cli.fail(2, ("score: --%s goes with --variants FILE.csv"):format(name))
    end
  end
  if not math.tointeger(options.offset) then
    cli.fail(2, ("score: --offset %g is no whole number of positions"):format(options.offset))
  end
  local opened = sequences.open_model("score", options)
  return (options.variants and score_variants or score_file)(options, opened)
end)
