--- performer shard - makes of data larger than memory a folder that `train --data` takes
local cli = require "kit.cli"
local data_options = require "kit.data_options"
local engine = require "kit.engine"
local lfs = require "lfs"

local ROWS = {
  { "out", "folder", nil, "the folder to make" },
  { "valid", "file", nil, "files of the validation part: all of --data is for training",
    many = "words" },
  { "valid-fraction", "number", nil,
    "share that is held back (default 0.05 of sequences, the last 0.1 of each text)" },
  { "block", "positive", nil, "tokens that are read in one go, and the longest row "
    .. "(default 1048576)" },
  engine.memory(),
  { "json", "flag", nil, "what was made, as JSON on stdout" },
}
for i, row in ipairs(data_options.rows "FASTA or text (several files are one data set)") do
  if row[1] == "data" then row.many = "words" end
  table.insert(ROWS, i, row)
end

cli.place(ROWS, { "data", "file" })

local parser = cli.add(cli.parser("shard",
  "Makes shards of data that are larger than memory: a folder that train --data takes.",
  { "performer shard uniref50.fasta.gz uniref50",
    "performer shard a.txt b.txt --out both",
    "performer train uniref50 --minutes 60" }), ROWS)
parser:usage "Usage: performer shard <file> ... <folder> [options]"

--- Without --out the last word is the folder, as that of cp is.
local function take_out(options)
  local words = options.data
  if options.out or #(words or {}) < 2 then return end
  local last = words[#words]
  if lfs.attributes(last, "mode") == "file" then
    cli.fail(2, ("shard: %s is a file: the folder to make is the last word, or --out says it")
      :format(last))
  end
  options.out = table.remove(words)
end

cli.alone("shard", function()
  local options = cli.parse(parser, ROWS, arg)
  take_out(options)
  if not options.data or not options.out then
    cli.fail(2, "shard: --data FILE and --out FOLDER are needed, or short: shard FILE FOLDER")
  end
  engine.open(options)
  local data = data_options.shard("shard", options)
  local train, valid = data:info "train", data:info "valid"
  if options.json then
    cli.print_json { out = options.out, format = train.format, checksum = train.checksum,
                     documents = train.documents + valid.documents, tokens = train.tokens,
                     valid_tokens = valid.tokens, skipped = train.skipped, shared = train.shared,
                     duplicates = train.duplicates + valid.duplicates }
  end
  local documents = train.format == "fasta"
    and cli.count(train.documents + valid.documents, "sequence") .. ", " or ""
  cli.say("shards %s: %s, %s%d training tokens, %d held out", options.out, train.format, documents,
          train.tokens, valid.tokens)
  cli.say("train on them with: %s %s", cli.called "performer train", cli.quote(options.out))
end)
