--- run_data.lua - the data of a run of `train`: opened, told from other data, found again when the
-- run goes on, and what is said and written of them. Equal fingerprints are equal training.
local cli = require "kit.cli"
local data_options = require "kit.data_options"
local lfs = require "lfs"
local ranks = require "kit.ranks"
local schedule = require "kit.schedule"

local run_data = {}

--- The rows of train's data: several files are one data set, and --valid has the last word on what
-- is held out.
function run_data.rows()
  local rows = data_options.rows("FASTA or text to train on (several files, or shards that "
    .. "`performer shard` made)", { group = "Run", keep = true })
  for _, row in ipairs(rows) do
    if row[1] == "data" then row.many = "words" end
  end
  rows[#rows + 1] = { "valid", "file", nil, "files that the run is judged on, whole; all of --data "
    .. "is trained on then", group = "Run", keep = true, many = "words", own = true }
  rows[#rows + 1] = { "valid-fraction", "number", nil, "share of --data that is held out (default "
    .. "0.05 of the sequences, the last 0.1 of each text)", group = "Run", keep = true }
  rows[#rows + 1] = { "split", { "auto", "homology" }, "auto", "how sequences are held out: by a "
    .. "hash of each, or in whole families, so that none is much like a training sequence",
    group = "Run", keep = true }
  rows[#rows + 1] = { "identity", "number", nil, "--split homology: share of equal letters from "
    .. "which on two sequences are of one family (default 0.3)", group = "Run", keep = true }
  return rows
end

--- What --data and --valid say, in parsed options: a path, or a list of several.
function run_data.settle(options)
  for _, name in ipairs { "data", "valid" } do
    local paths = options[name]
    if type(paths) == "table" and #paths == 1 then options[name] = paths[1] end
  end
end

--- Complaints about parsed options that need no file.
function run_data.check(options)
  if options.identity and options.split ~= "homology" then
    cli.fail(2, "train: --identity is for --split homology")
  end
  if options.split == "homology" and options.valid then
    cli.fail(2, "train: give --valid or --split homology, not both: --valid names what is held out")
  end
  if not options.valid_fraction then return end
  if options.valid then
    cli.fail(2, "train: give --valid or --valid-fraction, not both: --valid names what is held out")
  end
  if options.valid_fraction <= 0 or options.valid_fraction >= 1 then
    cli.fail(2, "train: --valid-fraction must be between 0 and 1")
  end
end

--- How the run that has these settings holds out a part, as options of pf.data.open.
function run_data.held_out(settings)
  local homology = settings.split == "homology"
  return { seed = settings.seed, valid = settings.valid, valid_fraction = settings.valid_fraction,
           split = homology and "homology" or nil,
           identity = homology and settings.identity or nil }
end

--- The data of a run, opened, or the end of `command`.
function run_data.open(command, settings)
  return data_options.open(command, settings, run_data.held_out(settings))
end

local function paths_of(value) return type(value) == "table" and value or { value } end

--- Paths in a few words.
local function label(value)
  local paths = paths_of(value)
  if #paths == 1 then return paths[1] end
  return ("%s and %d more"):format(paths[1], #paths - 1)
end

--- What a run is called by whose data are these: the name of the first file.
function run_data.title(settings) return paths_of(settings.data)[1]:match "([^/]+)/*$" end

--- The data in a few words.
function run_data.label(settings) return label(settings.data) end

-- What is held out of a part.
local NOTHING <const> = { documents = 0, tokens = 0 }

-- ---- opening ----

--- Sees to it that there is enough to train on.
local function check_enough(data, settings)
  if settings.valid and data:info("valid").tokens == 0 then
    cli.fail(1, ("train: --valid %s has no token to predict: 2 are needed; give more text"):format(
      label(settings.valid)))
  end
  cli.try(1, data.batch, data, { size = 1, masked = settings.bidirectional })
end

--- A length that the user asked for is one that the data can fill.
local function check_length(options, data)
  local length, longest = options.given.length, data_options.longest_row(data, "train")
  if length and length > longest then
    cli.fail(2, ("train: --length %d is more than %s holds: its training part has %s; take "
      .. "--length %d or less"):format(length, label(options.data), cli.count(longest, "token"),
      longest))
  end
end

--- A step is one that the engine makes, and memory holds: better known before a folder is made.
local function check_batch(data, settings)
  data_options.try(1, data.batch, data, { size = settings.batch, masked = settings.bidirectional })
end

--- Lays the data of a fresh run in the rows of its settings.
function run_data.lay(data, settings, options)
  check_enough(data, settings)
  check_length(options, data)
  data_options.lay(data, settings.length)
  check_batch(data, settings)
end

--- What tells one data set from another, as far as training goes; part: as far as that does.
function run_data.fingerprint(data, part)
  local train, valid = data:info(part or "train"), part and NOTHING or data:info "valid"
  return { documents = train.documents + valid.documents, tokens = train.tokens,
           held_out = valid.tokens, checksum = train.checksum, block = train.block }
end

local function described(data)
  local held_out = data.held_out > 0 and (", and %d held out"):format(data.held_out) or ""
  return ("%d tokens in %d documents%s"):format(data.tokens, data.documents, held_out)
end

--- Every rank reads the data for itself: files that differ are told, and who has them.
function run_data.check_everywhere(command, fingerprint)
  local all = ranks.collect(fingerprint)
  for rank = 2, #all do
    for name, value in pairs(all[1]) do
      if all[rank][name] ~= value then
        local theirs, ours = described(all[rank]), described(all[1])
        cli.fail(1, ("%s: rank %d on %s sees other data: %s; put the same files on every host")
          :format(command, rank - 1, ranks.here():host(rank - 1), theirs == ours
          and "as many tokens as rank 0, and not the same ones"
          or ("%s; rank 0 has %s"):format(theirs, ours)))
      end
    end
  end
end

-- ---- when a run goes on ----

--- Is the data what `before` says? Runs of older versions wrote down less of it.
local function is_same(now, before)
  for name, value in pairs(now) do
    local had = before[name]
    if had == nil and name == "block" then had = 0 end -- rows as in memory
    if had ~= nil and had ~= value then return false end
  end
  return true
end

--- Files that are not there any more, and have no new name.
local function check_there(settings, state, given)
  if state.once and not given.data then
    cli.fail(1, ("train: the run read its data from a pipe (%s), which is gone; give the same data "
      .. "again with --data FILE, or --data - for a pipe"):format(label(settings.data)))
  end
  for name, use in pairs { data = "trains", valid = "is judged" } do
    for _, path in ipairs(not given[name] and paths_of(settings[name]) or {}) do
      if not lfs.attributes(path, "mode") then
        cli.fail(1, ("train: %s, which the run %s on, is not there; say with --%s FILE where it is")
          :format(path, use, name))
      end
    end
  end
end

--- Says that data are others, and has the best checkpoint looked for anew: losses on other rows
-- can't be held against each other. longer: the run gets another end, whose rates are told then.
local function take_others(settings, state, now, longer)
  local before = state.data
  cli.say("train: %s is not what the run began with (%d training tokens, it had %d%s): the run "
    .. "goes on, but not as it would have%s", label(settings.data), now.tokens, before.tokens,
    now.tokens ~= before.tokens and "" or now.held_out ~= before.held_out
      and (", %d held out, it had %d"):format(now.held_out, before.held_out)
      or now.checksum == before.checksum and ", in rows of other shards"
      or ", with other letters", longer and "" or (", and with its old schedule: the learning rate "
      .. "is %.3g at step %d"):format(schedule.rate(settings, state.step + 1), state.step + 1))
  state.best, state.best_step, state.waited, state.data = nil, nil, nil, now
end

--- Opens the data of a run that goes on; when they are not what it began with that is said.
function run_data.reopen(settings, state, options)
  check_there(settings, state, options.given)
  local command = "train --resume " .. cli.quote(options.resume)
  local data = run_data.open(command, settings)
  local vocab = data:tokenizer():size()
  if vocab ~= (settings.model.vocab or vocab) then
    cli.fail(1, ("train: %s is %s, of %d kinds of token; the run's model has %d: give it data "
      .. "of the same kind"):format(label(settings.data), data:info().format, vocab,
      settings.model.vocab))
  end
  check_enough(data, settings)
  data_options.lay(data, settings.length)
  state.once = data:info().once
  local now = run_data.fingerprint(data)
  if state.data and not is_same(now, state.data) then
    take_others(settings, state, now, options.steps and options.steps ~= settings.steps)
  end
  return data
end

-- ---- what is said of them ----

-- So many held-out sequences tell how near they are to what is trained on.
local NEAR_SAMPLE = 300

--- How near held-out proteins are to the nearest that is trained on, where that was asked for: a
-- table of pf.data's data:identity; nil else.
function run_data.nearness(data, settings)
  local info = data:info "train"
  if info.format ~= "fasta" or info.shards then return nil end
  if settings.split ~= "homology" and not settings.valid then return nil end
  return data:identity { sample = NEAR_SAMPLE }
end

--- What the first record of a run, or of one that goes on, says of its data.
function run_data.record(job)
  local train, valid = job.data:info "train", job.data:info "valid"
  local settings = job.settings
  return { path = settings.data, valid = settings.valid, format = train.format,
           checksum = train.checksum, documents = train.documents + valid.documents,
           valid_documents = valid.documents, valid_tokens = valid.tokens,
           duplicates = train.duplicates + valid.duplicates, shared = train.shared,
           clusters = settings.split == "homology" and train.clusters or nil,
           identity = job.near,
           skipped = train.skipped, skips = train.skips }
end

--- Says on stderr what is trained and judged on.
function run_data.describe(job)
  local data, settings = run_data.record(job), job.settings
  local documents = data.format == "fasta" and (", %s, %s dropped"):format(
    cli.count(data.documents, "sequence"), cli.count(data.duplicates, "duplicate")) or ""
  if data.skipped > 0 then documents = ("%s, %d left out"):format(documents, data.skipped) end
  cli.say("data   %s: %s%s", label(settings.data), data.format, documents)
  local of = settings.valid and (": %s"):format(label(settings.valid)) or ""
  if (data.shared or 0) > 0 and data.format == "text" then
    of = ("%s, %d of whose texts are trained on, too"):format(of, data.shared)
  elseif (data.shared or 0) > 0 then
    of = ("%s, whose %d sequences that stand in both are not trained on"):format(of, data.shared)
  end
  cli.say("       %d training tokens, %d held out%s", job.data:info("train").tokens,
          data.valid_tokens, of)
  local near = data.identity
  if not near then return end
  cli.say("       held out: identity to the nearest training sequence %.2f in the median, %.0f %% "
    .. "unrelated", near.median, 100 * near.unrelated / math.max(1, near.sequences))
end

return run_data
