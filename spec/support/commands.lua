-- support/commands.lua - what the specs of the commands share: a folder with data, the program
-- run in it, and what its output is held against. `require "spec.support.commands"`.
local assert = require "luassert"
local pf = require "performer"
local support = require "spec.support"

-- The smallest model that still has every part.
local SMALL = " --dim 16 --layers 1 --heads 2 --features 16 --length 32 --batch 4 "

local folder -- of the spec that runs

--- Runs `performer arguments` in a shell; `before` stands in front (assignments, limits).
local function performer(arguments, before)
  return support.shell(("%s OMP_WAIT_POLICY=passive %s/bin/performer %s"):format(before or "",
    support.build, arguments))
end

local function path(name) return folder .. "/" .. name end

local function exists(name)
  local file = io.open(name, "rb")
  if file then file:close() end
  return file ~= nil
end

--- Runs, and raises with what it said when it fails; stdout, stderr.
local function good(arguments, before)
  local code, out, err = performer(arguments, before)
  if code ~= 0 then error(("performer %s: exit code %s: %s"):format(arguments, code, err), 2) end
  return out, err
end

--- Trains in a fresh run folder `name`, which is returned with stdout and stderr.
local function train(name, more)
  local run = path(name)
  local out, err = good(("train --out %s %s %s"):format(run, SMALL, more))
  return run, out, err
end

--- Every line of `text` as JSON.
local function records(text)
  local list = {}
  for line in text:gmatch "[^\n]+" do
    local record, message = pf.json.decode(line)
    if type(record) ~= "table" then error(("no JSON: %s (%s)"):format(line, message), 2) end
    list[#list + 1] = record
  end
  return list
end

local function log_of(run) return records(support.read(run .. "/log.jsonl")) end

--- The numbers of a log that must be the same bits: as text, one line a record.
local function losses(run)
  local lines = {}
  for _, r in ipairs(log_of(run)) do
    local words = { tostring(r.step) }
    for _, name in ipairs { "loss", "valid_loss", "train_loss", "valid_accuracy" } do
      words[#words + 1] = r[name] and ("%s %a"):format(name, r[name]) or nil
    end
    lines[#lines + 1] = table.concat(words, " ")
  end
  return table.concat(lines, "\n")
end

--- Fails unless `record` has each field, of the type that is named.
local function assert_fields(record, fields)
  for name, kind in pairs(fields) do
    local value = record[name]
    local is = kind == "integer" and math.tointeger(value) and "integer" or type(value)
    assert.are.equal(kind, is, ("field %s is %s"):format(name, tostring(value)))
    if type(value) == "number" then assert.is_true(value == value and value < math.huge, name) end
  end
end

--- Fails unless stderr is one sentence with `pattern`, from the program, without a traceback.
local function assert_sentence(err, pattern)
  assert.is_nil(err:find("traceback", 1, true), err)
  assert.is_nil(err:find("%.lua:%d"), err)
  local last = err:match "([^\n]*)\n$"
  assert.is_truthy(last, err)
  assert.is_truthy(last:find "^performer: ", err)
  assert.is_truthy(last:find(pattern), ("'%s' is not in: %s"):format(pattern, err))
end

--- Proteins, a text, and files with mistakes in them.
local function write_data()
  local random = { state = 7 }
  function random.below(n)
    random.state = (random.state * 1103515245 + 12345) % 2147483648
    return random.state // 65536 % n
  end
  local letters, lines = "ACDEFGHIKLMNPQRSTVWY", {}
  for i = 1, 80 do
    local t = {}
    for j = 1, 30 + random.below(40) do
      local k = 1 + random.below(20)
      t[j] = letters:sub(k, k)
    end
    lines[#lines + 1] = (">seq%d\nM%s\n"):format(i, table.concat(t))
  end
  support.write(path "p.fasta", table.concat(lines))
  local words = { "the", "river", "runs", "over", "stone", "and", "under", "old", "bridges" }
  local text = {}
  for i = 1, 2500 do
    text[#text + 1] = words[1 + random.below(#words)] .. (i % 9 == 0 and ".\n" or " ")
  end
  support.write(path "t.txt", table.concat(text))
  support.write(path "empty.fasta", "")
  support.write(path "ten.txt", "ten bytes!")
  support.write(path "digit.fasta", ">a\nMKLV\n>b\nMK1LV\n")
  support.shell(("gzip -c %s | head -c 600 > %s"):format(path "p.fasta", path "cut.fasta.gz"))
end

--- A fresh folder with data for the specs of one file; stop() removes it.
local function start()
  folder = support.folder()
  write_data()
  return folder
end

local function stop() support.remove(folder) end

--- A finished run on text with two checkpoints, which tests may copy, not change.
local function train_book()
  return (train("book", ("--data %s --steps 40 --eval-every 20 --threads 1"):format(path "t.txt")))
end

--- A copy of a run folder, called `name`.
local function copy(run, name)
  support.shell(("cp -r %s %s"):format(run, path(name)))
  return path(name)
end

return {
  SMALL = SMALL, start = start, stop = stop, train_book = train_book, copy = copy,
  performer = performer, good = good, train = train, path = path, exists = exists,
  records = records, log_of = log_of, losses = losses, assert_fields = assert_fields,
  assert_sentence = assert_sentence,
}
