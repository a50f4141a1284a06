-- source.lua - models that commands begin from: what a run left, or a folder or file of another
-- program, whose names a scheme knows (pf.weights); and their options with other attention.
local attention = require "kit.attention"
local lists = require "kit.lists"
local lfs = require "lfs"
local model_options = require "kit.model_options"
local pf = require "performer"
local saved = require "kit.saved"

local source = {}

--- The rows of --scheme and --config.
source.rows = {
  { "scheme", "name", nil, "how another program's file names its tensors: "
    .. table.concat(pf.weights.schemes(), ", ") .. " (default: by the names)",
    names = pf.weights.schemes() },
  { "config", "file", nil, "its config.json (default: beside the file)" },
}

--- Is this a run or a checkpoint folder?
function source.is_run(path)
  for _, name in ipairs { "LATEST", "manifest.json", "BEST" } do
    if lfs.attributes(path .. "/" .. name, "mode") then return true end
  end
  return false
end

--- { model, state, tokenizer [, report, scheme] } of a run, or of another program's model; nil,
-- message. options: scheme, config, script (the FILE.lua that makes a run's model), average (false:
-- the weights, and not their average where a run kept one).
function source.open(path, options)
  options = options or {}
  local mode, why = lfs.attributes(path, "mode")
  if not mode then return nil, ("%s: %s"):format(path, why:match "[^:]*$":gsub("^ ", "")) end
  if source.is_run(path) then
    return saved.open(path, { script = options.script, average = options.average ~= false })
  end
  local model, report, scheme = pf.weights.open(path, { scheme = options.scheme,
                                                        config = options.config })
  if not model then return nil, report end
  return { model = model, report = report, scheme = scheme }
end

-- ---- other attention ----

local function merged(old, given)
  local both = {}
  for key, value in pairs(old or {}) do both[key] = value end
  for key, value in pairs(given or {}) do both[key] = value end
  return both
end

--- Another kernel for each layer that has one of its own; other options where no kind and no map is
-- named.
local function put_kernel(options, given)
  options.kernel = merged(options.kernel, given)
  for i, kernel in ipairs(options.kernels or {}) do options.kernels[i] = merged(kernel, given) end
end

--- Puts the attention that parsed words name into options of a layer: its kind, and the kernel,
-- whose options stay where it is the same map and others are not given. Of heads in groups, whose
-- weights are parted, that of every group.
function source.put_attention(options, words)
  for _, group in ipairs(options.head_groups or {}) do source.put_attention(group, words) end
  local given = model_options.collect(words)
  if not words.attention then
    if given.kernel then put_kernel(options, given.kernel) end
    if given.attention_options then
      options.attention_options = merged(options.attention_options, given.attention_options)
    end
    return
  end
  local chosen = attention.model_options(words.attention)
  local kind = chosen.attention or attention.LINEAR
  local map = chosen.kernel.name or attention.MAP
  options.attention, options.chosen, options.attentions, options.kernels = kind, nil, nil, nil
  options.attention_options = model_options.own(kind, words)
  for _, group in ipairs(options.head_groups or {}) do -- their weights stay, as groups
    group.attention, group.attention_options, group.kernel = nil, nil, nil
  end
  local takes = kind == "auto" or attention.takes_kernel(kind)
  local same = options.kernel and (options.kernel.name or attention.MAP) == map
  options.kernel = takes and merged(merged(same and options.kernel, given.kernel), { name = map })
    or nil
end

--- The options of a model with those that parsed words name in their place.
function source.options_with(options, words)
  local all, given = merged(options), model_options.collect(words)
  if given.attentions then all.kernels, all.head_groups = nil, nil end
  if given.head_groups then all.kernels, all.attentions = nil, nil end
  for name, value in pairs(given) do
    if type(value) ~= "table" or value[1] ~= nil then -- a list takes the other's place
      all[name] = value
    elseif name ~= "kernel" and name ~= "attention_options" then
      all[name] = merged(all[name], value)
    end
  end
  source.put_attention(all, words)
  -- Models of before may hold a kernel beside attentions that read none.
  local named = all.kernel and attention.kind_of { attention = "kernel", kernel = all.kernel }
  if named == attention.LINEAR and not lists.reads_kernel(all) then all.kernel = nil end
  if all.ngrams and (all.ngrams.longest or 1) == 0 then all.ngrams = nil end
  return all
end

return source
