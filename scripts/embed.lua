--- performer embed - vectors of sequences: what a trained model makes of each, as the mean over its
-- letters, or a vector for every letter.
local attention = require "kit.attention"
local cli = require "kit.cli"
local lists = require "kit.lists"
local pf = require "performer"
local sequences = require "kit.sequences"

local ROWS = sequences.rows "FASTA or text"
table.move({
  { "per-token", "flag", nil, "a vector for every letter, instead of their mean" },
  { "layer", "positive", nil, "what stands behind this block (default: behind the last one and the "
    .. "last norm)" },
  { "length", "positive", nil, "longest part of a sequence that is looked at as one, which bounds "
    .. "memory; a causal model with linear attention goes through long ones in little memory "
    .. "anyway (default: all of it, or as many as the model has positions)" },
}, 1, 3, #ROWS + 1, ROWS)
cli.place(ROWS, { "checkpoint", "run" }, { "data", "file" })

--- Refuses a block that is not there, and models of whose inside nothing is known.
local function check_layer(layer, model)
  if model:type() ~= "performer" then
    cli.fail(1, ("embed: the model is a %s, which gives no states of its inside; a performer does")
      :format(model:type()))
  end
  local blocks = model:options().layers
  if layer and layer > blocks then
    cli.fail(2, ("embed: --layer %d: the model has %s"):format(layer, cli.count(blocks, "block")))
  end
end

-- Positions that a causal model with linear attention is shown at a time: it goes on from what it
-- remembers, so that memory does not grow with the row, and neither do the numbers change.
local PART = 4096

--- Can rows be read in such parts?
local function goes_on(options)
  if not options.causal then return false end
  for _, kind in ipairs(lists.kinds(options)) do
    if kind == "auto" or not attention.hands_on(kind) then return false end
  end
  return true
end

--- States of ids first .. last, (n, dim), which go on from `carry` where there is one.
local function states(opened, layer, ids, first, last, carry)
  local input = ids:slice(1, first, last):reshape(1, -1)
  local h = opened.model:hidden(input, { carry = carry }, layer)
  return h:reshape(-1, h:size(-1))
end

--- Calls f(h, is_letter) for every part of a sequence: states (n, dim), and 1 for each letter and 0
-- for each mark.
local function each_part(opened, layer, ids, marks, f)
  local list, room = ids:totable(), opened.room
  for begin = 1, #list, math.min(room, #list) do -- each stands for itself
    local stop = math.min(begin + room - 1, #list)
    local long = opened.goes_on and stop - begin >= PART
    local carry = long and opened.model:carry { batch = 1 } or nil
    for first = begin, stop, long and PART or stop - begin + 1 do
      local last, is_letter = long and math.min(first + PART - 1, stop) or stop, {}
      for i = first, last do is_letter[i - first + 1] = marks[list[i]] and 0 or 1 end
      f(states(opened, layer, ids, first, last, carry), is_letter)
      collectgarbage()
    end
  end
end

--- Calls f(vector) for every letter of a sequence.
local function each_letter(opened, layer, ids, marks, f)
  each_part(opened, layer, ids, marks, function(h, is_letter)
    for i, row in ipairs(h:totable()) do
      if is_letter[i] == 1 then f(row) end
    end
  end)
end

--- The mean of the vectors of all letters; nil: there is none.
local function mean(opened, layer, ids, marks)
  local sum, n = {}, 0
  each_part(opened, layer, ids, marks, function(h, is_letter)
    for _, one in ipairs(is_letter) do n = n + one end
    local part = pf.tensor({ is_letter }):matmul(h):reshape(-1):totable()
    for i, x in ipairs(part) do sum[i] = (sum[i] or 0) + x end
  end)
  for i = 1, #sum do sum[i] = sum[i] / n end
  return n > 0 and sum or nil
end

local function line(vector)
  local words = {}
  for i, x in ipairs(vector) do words[i] = ("%.6g"):format(x) end
  return table.concat(words, "\t")
end

--- What is to be said of one sequence. Vectors of letters are written as they come, but in JSON,
-- where they are one list.
local function tell(options, opened, ids, name, marks)
  local layer = options.layer
  local function checked(vector)
    for _, x in ipairs(vector) do sequences.check_number("embed", opened.model, x, name, ids) end
    return vector
  end
  if not options.per_token then
    local vector = mean(opened, layer, ids, marks)
    if not vector then return end
    if options.json then return cli.print_json { name = name, vector = checked(vector) } end
    return cli.write(cli.plain(name), "\t", line(checked(vector)), "\n")
  end
  local rows, n = {}, 0
  each_letter(opened, layer, ids, marks, function(vector)
    n = n + 1
    if options.json then rows[n] = checked(vector)
    else cli.write(cli.plain(name), "\t", n, "\t", line(checked(vector)), "\n") end
  end)
  if n > 0 and options.json then cli.print_json { name = name, vector = rows } end
end

cli.alone("embed", function()
  local parser = cli.add(cli.parser("embed", "Vectors of sequences, by a trained model.", {
    "performer embed runs/proteins some.fasta --json",
    "performer embed runs/proteins one.fasta --per-token --layer 2",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  if not options.data then cli.fail(2, "embed: needs --data FILE") end
  local opened = sequences.open_model("embed", options)
  local data = sequences.open_data("embed", options, opened)
  local marks = sequences.marks(opened.tokenizer)
  check_layer(options.layer, opened.model)
  opened.room = math.min(options.length or math.huge, opened.model:longest())
  opened.goes_on = goes_on(opened.model:options())
  sequences.each("embed", data, opened.model:longest(), function(ids, name)
    tell(options, opened, ids, name, marks)
  end)
end)
