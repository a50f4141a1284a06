-- performer/choices.lua: what the choices of options (kinds of attention, activations, positions)
-- are called elsewhere, and what is said of a wrong one.
local core = require "performer.core"

local choices = {}

local LINEAR = "it is 'favor' (FAVOR+), or the name of a kernel, such as softmax, relu or elu"

-- What the choices of options are called elsewhere; the first that is a choice is meant. `say`: how
-- it is told, where one name says too little.
choices.values = {
  linear = { "favor", say = LINEAR }, ["linear_attention"] = { "favor", say = LINEAR },
  kernel = { "favor", say = LINEAR }, dense = { "exact" }, standard = { "exact" },
  transformer = { "exact" }, ["dot_product"] = { "exact" }, ["elu+1"] = { "elu" },
  swish = { "silu" }, ["gelu_new"] = { "gelu_tanh" }, ["gelu_fast"] = { "gelu_tanh" },
  relu2 = { "square_relu" }, rope = { "rotary" }, learnable = { "learned" },
  sine = { "sinusoidal" },
  sincos = { "sinusoidal" }, layer_norm = { "layernorm" }, rms = { "rmsnorm" },
  rms_norm = { "rmsnorm" }, full = { "exact" }, vanilla = { "exact" }, flash = { "exact" },
  sdpa = { "exact" }, ["local"] = { "sliding" }, window = { "sliding" }, longformer = { "sliding" },
  reformer = { "lsh" }, performer = { "favor" }, ["favor+"] = { "favor" }, sparse = { "strided" },
  cosine_with_warmup = { "cosine" }, constant_with_warmup = { "constant" }, none = { "constant" },
  warmup_stable_decay = { "wsd" }, adamax = { "adam" }, ["adamw_torch"] = { "adamw" },
  txt = { "text" }, fa = { "fasta" }, test = { "valid" }, validation = { "valid" },
  val = { "valid" },
  ["true"] = { "on" }, ["yes"] = { "on" }, ["1"] = { "on" }, ["false"] = { "off" },
  ["no"] = { "off" }, ["0"] = { "off" }, bytes = { "byte" }, char = { "byte" },
}

--- All names, as far as a message has room.
local function listed(names)
  if #names == 0 then return "; there are none" end
  local all, room = table.concat(names, ", "), 900
  if #all > room then all = all:sub(1, room):gsub("[^,]*$", " ...") end
  return (#names == 1 and "; there is " or "; there are ") .. all
end

--- What is said behind a word that is none of the names: the nearest, or all.
function choices.near(word, names)
  local near = type(word) == "string" and core.nearest(word, names)
  return near and (" (did you mean '%s'?)"):format(near) or listed(names)
end

--- What is said behind a wrong value where there are `names`: what is meant, the nearest, or "".
function choices.hint(word, names)
  local has = {}
  for _, name in ipairs(names) do has[name] = true end
  local meant = choices.values[word:lower():gsub("%-", "_")] or {}
  for _, name in ipairs(meant) do
    if has[name] then return "; " .. (meant.say or ("it is '%s'"):format(name)) end
  end
  local near = core.nearest(word, names)
  return near and (" (did you mean '%s'?)"):format(near) or ""
end

--- The engine's complaint of a wrong choice, "must be one of a, b, got 'c'", with what c means.
function choices.told(message)
  local list, word, rest = message:match "must be one of ([%w_, ]-), got '([^']*)'(.*)$"
  if not word or rest:find "did you mean" or rest:find "^; " then return message end
  local names = {}
  for name in list:gmatch "[%w_]+" do names[#names + 1] = name end
  return message:sub(1, #message - #rest) .. choices.hint(word, names) .. rest
end

return choices
