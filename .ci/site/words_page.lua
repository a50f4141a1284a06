-- words_page.lua - what others call things and what is meant by it here, as a text to read and to
-- find things by: the tables that messages are made of (performer/words.lua, kit/cli_words.lua).
local cli_words = require "kit.cli_words"
local words = require "performer.words"

local function cell(text) return (text:gsub("|", "\\|"):gsub("<", "&lt;")) end

--- Two columns of a table of texts, in order.
local function rows_of(list)
  local names, lines = {}, { "| elsewhere | here |", "| --- | --- |" }
  for name in pairs(list) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    lines[#lines + 1] = ("| `%s` | %s |"):format(cell(name),
      cell((list[name]:gsub("^it is ", ""))))
  end
  return table.concat(lines, "\n")
end

--- Options by the names that they have here; `mark` stands before each.
local function options_of(options, notes, mark)
  local list = {}
  for word, note in pairs(notes) do list[mark .. word] = note end
  for word, meant in pairs(options) do
    local names = {}
    for i, name in ipairs(meant) do names[i] = mark .. name end
    list[mark .. word] = meant.say or table.concat(names, ", or ")
  end
  return list
end

local PARTS = {
  { "Tensors, t:NAME", words.tensor }, { "Functions, pf.NAME", words.pf },
  { "Layers, nn.NAME", words.nn }, { "Models, m:NAME", words.module },
  { "Optimizers, pf.optim.NAME", words.optim }, { "Optimizers, opt:NAME", words.optimizer },
  { "Schedules, pf.schedule.NAME", words.schedule }, { "Tapes, tape:NAME", words.tape },
  { "Data, pf.data.NAME", words.data }, { "Data, data:NAME", words.dataset },
  { "Tokenizers, pf.tokenizer.NAME", words.tokenizer }, { "Kernels, pf.kernel.NAME", words.kernel },
  { "Attention, pf.attention.NAME", words.attention },
  { "Checkpoints, pf.checkpoint.NAME", words.checkpoint },
  { "Weights, pf.weights.NAME", words.weights }, { "Streams, stream:NAME", words.stream },
  { "Functions of other languages", words.globals },
  { "Options in Lua", options_of(words.options, words.notes, "") },
  { "Options of the commands", options_of(cli_words.options, cli_words.notes, "--") },
}

--- The page, in Markdown.
return function()
  local parts = { "# Words from elsewhere",
                  "What PyTorch, JAX, Torch7, Keras, nanoGPT and llama.cpp call things, and what "
                    .. "is meant by it here. Who types such a word is told the same; it is found "
                    .. "in any spelling, as `zero_grad` and `zeroGrad`." }
  for _, part in ipairs(PARTS) do
    parts[#parts + 1] = ("## %s\n\n%s"):format(part[1], rows_of(part[2]))
  end
  return table.concat(parts, "\n\n") .. "\n"
end
