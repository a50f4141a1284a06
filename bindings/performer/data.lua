-- performer/data.lua: data sets, their batches, and tokenizers.
local bpe = require "performer.bpe"
local core = require "performer.core"
local file = require "performer.file"
local util = require "performer.util"
local words = require "performer.words"

local data, tokenizer = {}, {}

-- ---- tokenizers ---------------------------------------------------------------------

local Tokenizer = {}

--- The ids of a text, an i32 tensor (L); nil, message, code for a letter it does not know.
function Tokenizer:encode(text) return core.tokenizer_encode(self.type, text) end

--- The text of ids, an i32 tensor or a list.
function Tokenizer:decode(ids) return core.tokenizer_decode(self.type, ids) end

function Tokenizer:size() return core.tokenizer_size(self.type) end

--- The id of "begin", "end", "mask", "pad" or "unknown"; nil where there is none.
function Tokenizer:special(name) return core.tokenizer_special(self.type, name) end

local meta = {
  __index = Tokenizer, __name = "tokenizer",
  __tostring = function(t) return ("%s tokenizer, %d tokens"):format(t.type, t:size()) end,
  __config = function(t) return { type = t.type } end,
}

local function new_tokenizer(type_name)
  return setmetatable({ type = type_name }, meta)
end

function tokenizer.byte() return new_tokenizer("byte") end
function tokenizer.protein() return new_tokenizer("protein") end

--- The byte-pair vocabulary of a llama2.c model, from its tokenizer.bin. A checkpoint does not hold
--- it: whoever opens one opens this file again.
tokenizer.llama2c = bpe.open

-- ---- data sets ----------------------------------------------------------------------

-- What others have other words for; the engine knows all of them.
local OPTIONS = { name = "data", options = { { name = "path" }, { name = "valid" },
                                             { name = "valid_fraction" }, { name = "length" } } }

--- core.open_data, with options.bytes in the place of a path.
local function open(options)
  if type(options) == "table" then util.check_words(options, OPTIONS) end
  if type(options) ~= "table" or options.bytes == nil then return core.open_data(options) end
  if options.path ~= nil then util.fail("data: path or bytes, one of them") end
  return file.with(options.bytes, function(path)
    options = util.copy(options)
    options.path, options.bytes = path, nil
    return core.open_data(options)
  end)
end

--- A data set from a file, a pipe or "-", the standard input, or from a list of these;
--- options.path, or the bytes of one as a string, options.bytes; valid, format "auto" | "fasta" |
--- "text", length, skip_bad, ...
function data.open(options)
  if type(options) == "string" then options = { path = options } end
  return open(options)
end

local function of_format(format)
  return function(options)
    if type(options) == "string" then options = { path = options } end
    options = util.copy(options or {})
    options.format = format
    return open(options)
  end
end

--- "fasta" or "text", as data.open would read the file; nil, message, code. A pipe is read once:
--- open it, and ask data:info().format.
data.kind = core.data_kind

data.fasta = of_format("fasta")
data.text = of_format("text")
data.shards = of_format("shards")

--- Makes shards of options.path in the folder options.out, for data larger than memory, and opens
--- them: a data set; nil, message, code. options.valid, format, skip_bad, unique, longest, split,
--- valid_fraction, block.
function data.shard(options)
  options = util.copy(options or {})
  local out = options.out
  options.out = nil
  local ok, message, code = core.shard_data(options, out)
  if not ok then return nil, message, code end
  return core.open_data { path = out, format = "shards" }
end

local Data = core.methods("performer.data")

--- for step, batch in data:batches{size, steps, seed, first, split, masked, stream, rows} do
--- step counts from `first` (1); steps not given: once through the split. stream: row b of a batch
--- goes on where row b of the batch before ended, for model:carry; rows = {first, last}: those of a
--- lane alone.
function Data:batches(options)
  util.check_options(options,
                     { "size", "steps", "seed", "first", "split", "masked", "stream", "rows" },
                     "batches")
  options = options or {}
  util.check_numbers(options, { "size", "steps", "first", "seed" }, "batches")
  local size, first = options.size or 8, options.first or 1
  if size < 1 then util.fail("batches: size must be at least 1, got %s", tostring(size)) end
  local steps = options.steps
  if not steps then
    local split = options.split or "train"
    local rows = self:info(split).rows
    steps = math.ceil(rows / size)
    if options.stream and split == "train" then steps = math.max(1, rows // size) end
  end
  local step = first - 1
  return function()
    step = step + 1
    if step > steps then return nil end
    return step, self:batch {
      index = step, size = size, split = options.split, masked = options.masked,
      seed = options.seed, stream = options.stream, rows = options.rows,
    }
  end
end

Data.info, Data.batch = util.showing(Data.info, "data"), util.showing(Data.batch, "batch")

--- The tokenizer that the data set was read with.
function Data:tokenizer() return new_tokenizer(self:info().tokenizer) end

return {
  data = util.namespace(data, "pf.data", words.data),
  tokenizer = util.namespace(tokenizer, "pf.tokenizer", words.tokenizer),
}
