-- performer/prompt.lua: what generate and serve read alike: tokenizers, prompts, what a model reads
-- beside them, sampling.
local core = require "performer.core"
local tokenizers = require("performer.data").tokenizer
local util = require "performer.util"

local prompts = { sampling_names = { "temperature", "top_k", "top_p", "min_p",
                                     "repetition_penalty", "seed" } }

--- The part of options that says how to draw.
function prompts.sampling(options)
  local sampling = {}
  for _, name in ipairs(prompts.sampling_names) do sampling[name] = options[name] end
  return sampling
end

--- A tokenizer by its name, or itself.
function prompts.tokenizer(value, where)
  if type(value) ~= "string" then return value end
  local make = rawget(tokenizers, value)
  if not make then
    util.fail("%s: there is no tokenizer '%s'; there are byte and protein", where, value)
  end
  return make()
end

--- Ids of a prompt, how many, and a function that gives the result the prompt's form.
function prompts.read(prompt, tokenizer, where)
  if type(prompt) == "string" then
    if not tokenizer then util.fail("%s: a text as prompt needs its tokenizer", where) end
    local ids, message = tokenizer:encode(prompt)
    if not ids then util.fail("%s: the prompt: %s", where, message) end
    return ids, ids:numel(), function(new) return tokenizer:decode(new) end
  end
  if core.kind(prompt) == "tensor" then
    return prompt, prompt:numel(), function(new) return core.tensor(new, { dtype = "i32" }) end
  end
  if type(prompt) ~= "table" then
    util.fail("%s: the prompt is a text, an i32 tensor or a list of ids, got %s", where,
      core.kind(prompt))
  end
  return prompt, #prompt, function(new) return new end
end

--- The same of what a model goes on from.
function prompts.start(prompt, tokenizer, where)
  local ids, n, give = prompts.read(prompt, tokenizer, where)
  if n == 0 then
    util.fail("%s: the prompt is empty, and a model goes on from at least one token: begin with "
      .. "what stood before it in training, as the end of a line, or tokenizer:special \"begin\"",
      where)
  end
  return ids, n, give
end

--- What a model that reads `list` (model:inputs()) has beside the prompt, as a stream takes it: a
--- text or a list of ids becomes (1, L) ids.
function prompts.inputs(list, options, tokenizer, where)
  local inputs = {}
  for _, input in ipairs(list) do
    local value = options[input.name]
    if type(value) == "string" or type(value) == "table" then
      local ids, length = prompts.read(value, tokenizer, where)
      value = core.kind(ids) == "tensor" and ids or core.tensor(ids, { dtype = "i32" })
      value = value:reshape(1, length)
    elseif core.kind(value) == "tensor" and value:dtype() == "i32" and value:rank() == 1 then
      value = value:reshape(1, value:numel())
    end
    inputs[input.name] = value
  end
  return inputs
end

return prompts
