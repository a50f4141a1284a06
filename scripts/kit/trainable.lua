-- trainable.lua - what a run of `train` begins with and what of it is trained: the options --init
-- and --map (init.lua does what they say), --freeze and --adapters.
local cli = require "kit.cli"
local pf = require "performer"

local trainable = {}

-- As train's own rows; `keep`: settings of a run.
trainable.rows = {
  { "init", "path", nil, "begin with the weights of a run, of another program's folder or of a "
    .. ".safetensors file; with the model of a run or folder, too, but for the options that are "
    .. "given", group = "Weights", keep = true },
  { "map", "file", nil, "how names become the model's: a Lua file that returns a table or a "
    .. "function(source, model), as pf.weights.load takes them, or a scheme: "
    .. table.concat(pf.weights.schemes(), ", "), group = "Weights", needs = "init" },
  { "freeze", "pattern", nil, "parameters that are not trained: embedding, blocks.1, norm1|norm2 "
    .. "(whole parts of a name), or *.bias", group = "Weights", keep = true },
  { "adapters", "positive", nil, "train low-rank adapters of so many rows beside the weights of "
    .. "linear layers, and nothing else", group = "Weights", keep = true },
  { "adapters-on", "pattern", nil, "the layers that get them, by names as --freeze has them "
    .. "(default: those of attention and mlp)", group = "Weights", keep = true,
    needs = "adapters" },
  { "adapters-scale", "signed", nil, "factor of what they add (default 1)", group = "Weights",
    keep = true, needs = "adapters" },
}

--- Complaints that need no model.
function trainable.check(options)
  if options.map and not options.init then
    cli.fail(2, "train: --map is for weights from elsewhere: name them with --init")
  end
  for _, name in ipairs { "adapters_on", "adapters_scale" } do
    if options[name] and not options.adapters then
      cli.fail(2, ("train: --%s is for --adapters RANK"):format((name:gsub("_", "-"))))
    end
  end
end

--- Gives a model what settings say: adapters, where it has none yet, and then what is frozen. A
-- pattern that fits nothing is misuse.
function trainable.apply(model, settings)
  if settings.adapters and not model:tree().adapters then
    local ok, why = pcall(model.adapt, model, { rank = settings.adapters,
      match = settings.adapters_on, scale = settings.adapters_scale })
    if not ok then -- in the words of the command line
      cli.try(2, error, tostring(why):gsub("adapt: rank is (%d+), must be (%d+) to (%d+)",
        "--adapters must be a whole number from %2 to %3, got %1"), 0)
    end
  end
  if not settings.freeze then return end
  cli.try(2, model.freeze, model, settings.freeze)
  if model:count() == 0 then
    cli.fail(2, ("train: --freeze %s leaves nothing to train"):format(cli.quote(settings.freeze)))
  end
end

--- The name of a tensor of the model's that holds NaN or infinity, the first one; nil: none does.
function trainable.broken(model)
  for name, tensor in pf.sorted(model:tensors()) do
    local sum = tensor:sum():item()
    if sum ~= sum or math.abs(sum) == math.huge then return name end
  end
end

--- What to do where training has met a number that is none, at a step whose rate is `rate` of --lr:
-- no rate helps weights that hold one before a step has moved them.
function trainable.advice(model, lr, rate)
  local name = trainable.broken(model)
  if not name then
    local now = ("%.3g"):format(rate)
    local peak = ("%.3g"):format(lr)
    return ("try a lower --lr (it is %s%s)"):format(peak,
      now ~= peak and (", and %s at this step"):format(now) or "")
  end
  return ("'%s' holds NaN or infinity before the step: begin with other weights"):format(name)
end

--- How many numbers a model learned or is to learn, and how many of them are trained.
function trainable.count(model)
  local trained, all = model:count(), 0
  local own, frozen = model:tensors(), model:tree().frozen or {}
  for _, name in ipairs(frozen) do all = all + own[name]:numel() end
  return trained + all, trained
end

--- How many of a model's parameters are tables of n-grams: of these a token reads a few rows.
function trainable.memory_of(module)
  if module:type() == "ngrams" then return module:count() end
  local sum = 0
  for _, child in ipairs(module:children()) do sum = sum + trainable.memory_of(child) end
  return sum
end

return trainable
