--- describe.lua - what a saved model is, in words and by its parts, from its configuration and the
-- names of its tensors alone.
local attention = require "kit.attention"
local cli = require "kit.cli"
local runs = require "kit.runs"

local describe = {}

-- ---- in a sentence ----

--- The attention of a model in a few words.
local function attention_words(o)
  local label = attention.label(o)
  if not label then return nil end
  local kernel = o.kernel or {}
  if attention.kind_of(o) ~= attention.LINEAR then return label .. " attention" end
  return ("%s attention by features%s"):format(label,
    kernel.features and (" (FAVOR+, %d)"):format(kernel.features) or "")
end

--- "A causal language model of 4 blocks, 128 wide ...", without an end; config: a checkpoint's tree
-- {type, options, children}, or nil.
function describe.model(config, params)
  local o = type(config) == "table" and config.options or {}
  local counted = params and (", %s parameters"):format(runs.grouped(params)) or ""
  if type(config) ~= "table" then return "A model" .. counted end
  if config.type ~= "performer" or not o.layers then
    return ("A model of type %s%s"):format(config.type, counted)
  end
  local words = { ("A %s language model of %s, %d wide, with %s%s"):format(
    o.causal and "causal" or "masked", cli.count(o.layers, "block"), o.dim,
    cli.count(o.heads, "head"), counted) }
  words[#words + 1] = attention_words(o)
  local ngrams = o.ngrams
  if type(ngrams) == "table" then
    words[#words + 1] = ("an n-gram memory of lengths %s to %s"):format(ngrams.shortest or "?",
      ngrams.longest or "?")
  end
  if (o.conv or 0) > 0 then words[#words + 1] = ("a convolution of %d"):format(o.conv) end
  return table.concat(words, "; ")
end

-- ---- by parts ----

-- A tensor belongs to the first of these that its name fits.
local PARTS = {
  { "^ngrams%.", "n-gram memory" }, { "%f[%w]ngrams%.", "n-gram memory" },
  { "%f[%w]adapter%.", "adapters" },
  { "%f[%w]attention%.", "attention" }, { "%f[%w]cross%.", "attention" },
  { "%f[%w]mlp%.", "feed-forward" }, { "%f[%w]conv%.", "convolutions" },
  { "%f[%w]embedding%.", "embedding" }, { "%f[%w]positions%.", "positions" },
  { "%f[%w]norm%d?%.", "norms" }, { "%f[%w]embedding_norm%.", "norms" },
  { "%f[%w]head%.", "head" },
}
local MEMORY = "n-gram memory"
-- What is drawn or fixed, and not trained: the last part of a name.
local FIXED = { projection = true, decay = true, tilt = true, centroids = true, factors = true }

local function numel(tensor)
  local n = 1
  for _, rows in ipairs(tensor.shape) do n = n * rows end
  return n
end

local function part_of(name)
  for _, part in ipairs(PARTS) do
    if name:find(part[1]) then return part[2] end
  end
  return "others"
end

--- Numbers by part, the largest first: a list of { name, count }; then how many are drawn or fixed,
-- and how many are the n-gram memory.
function describe.parts(tensors)
  local counts, list, fixed = {}, {}, 0
  for _, tensor in ipairs(tensors) do
    local n, part = numel(tensor), part_of(tensor.name)
    if FIXED[tensor.name:match "[^.]+$"] then
      fixed = fixed + n
    else
      if not counts[part] then list[#list + 1] = { part, 0 } end
      counts[part] = (counts[part] or 0) + n
    end
  end
  for _, entry in ipairs(list) do entry[2] = counts[entry[1]] end
  table.sort(list, function(a, b)
    return a[2] > b[2] or a[2] == b[2] and a[1] < b[1]
  end)
  return list, fixed, counts[MEMORY] or 0
end

return describe
