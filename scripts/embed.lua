--- performer embed - vectors of sequences: what a trained model makes of each, as the mean over its
-- letters, or a vector for every letter.
local cli = require "kit.cli"
local pf = require "performer"
local sequences = require "kit.sequences"

local ROWS = sequences.rows "FASTA or text"
table.move({
  { "per-token", "flag", nil, "a vector for every letter, instead of their mean" },
  { "layer", "positive", nil, "what stands behind this block (default: behind the last one and the "
    .. "last norm)" },
  { "length", "positive", nil, "longest part of a sequence that is looked at as one, which bounds "
    .. "memory (default: all of it, or as many as the model has positions)" },
}, 1, 3, #ROWS + 1, ROWS)

--- Refuses a block that is not there, and models of whose inside nothing is known.
local function check_layer(layer, model)
  if model:type() ~= "performer" then
    cli.fail(1, ("embed: the model is a %s, which gives no states of its inside; a performer does")
      :format(model:type()))
  end
  local blocks = model:options().layers
  if layer and layer > blocks then
    cli.fail(2, ("embed: --layer %d: the model has %d blocks"):format(layer, blocks))
  end
end

--- States of ids first .. last, (n, dim).
local function states(opened, layer, ids, first, last)
  local input = ids:slice(1, first, last):reshape(1, -1)
  local h = opened.model:hidden(input, nil, layer)
  return h:reshape(-1, h:size(-1))
end

--- Calls f(h, is_letter) for every part of a sequence: states (n, dim), and 1 for each letter and 0
-- for each mark.
local function each_part(opened, layer, ids, marks, f)
  local list, room = ids:totable(), opened.room
  for first = 1, #list, math.min(room, #list) do
    local last, is_letter = math.min(first + room - 1, #list), {}
    for i = first, last do is_letter[i - first + 1] = marks[list[i]] and 0 or 1 end
    f(states(opened, layer, ids, first, last), is_letter)
    collectgarbage()
  end
end

--- A vector for every letter of a sequence.
local function letters(opened, layer, ids, marks)
  local rows = {}
  each_part(opened, layer, ids, marks, function(h, is_letter)
    for i, row in ipairs(h:totable()) do
      if is_letter[i] == 1 then rows[#rows + 1] = row end
    end
  end)
  return rows
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

local function print_plain(name, vector, per_token)
  if not per_token then return cli.write(cli.plain(name), "\t", line(vector), "\n") end
  for i, row in ipairs(vector) do cli.write(cli.plain(name), "\t", i, "\t", line(row), "\n") end
end

cli.main(function()
  local parser = cli.add(cli.parser("embed", "Vectors of sequences, by a trained model.", {
    "performer embed --checkpoint runs/proteins --data some.fasta --json",
    "performer embed --checkpoint runs/proteins --data one.fasta --per-token --layer 2",
  }), ROWS)
  local options = cli.parse(parser, ROWS, arg)
  if not options.data then cli.fail(2, "embed: needs --data FILE") end
  local opened = sequences.open_model("embed", options)
  local data = sequences.open_data("embed", options, opened)
  local layer, marks = options.layer, sequences.marks(opened.tokenizer)
  check_layer(layer, opened.model)
  local embed = options.per_token and letters or mean
  opened.room = math.min(options.length or math.huge, opened.model:longest())
  sequences.each("embed", data, opened.model:longest(), function(ids, name)
    local vector = embed(opened, layer, ids, marks)
    if not vector or #vector == 0 then return end
    for _, one in ipairs(options.per_token and vector or { vector }) do
      for _, x in ipairs(one) do sequences.check_number("embed", opened.model, x, name, ids) end
    end
    if options.json then
      cli.print_json { name = name, vector = vector }
    else
      print_plain(name, vector, options.per_token)
    end
  end)
end)
