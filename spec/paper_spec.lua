-- paper_spec.lua - the experiments of examples/paper run: each of them with --smoke, on data that
-- it makes up, prints a table, draws its picture and says in the last line whether it beat its
-- baseline. What they find is no matter of a spec; that their arithmetic is right is.
local lfs = require "lfs"
local support = require "spec.support"

local FOLDER = "examples/paper/"
local SHARED = { kit = true, png = true, picture_file = true } -- no experiments

local function experiments()
  local names = {}
  for name in lfs.dir(FOLDER) do
    local base = name:match "^(.*)%.lua$"
    if base and not SHARED[base] then names[#names + 1] = base end
  end
  table.sort(names)
  return names
end

describe("examples/paper", function()
  local folder
  setup(function() folder = support.folder() end)
  teardown(function() support.remove(folder) end)

  --- Runs an experiment on one thread, without spinning: exit code, stdout, stderr.
  local function run(words)
    return support.shell(("OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive %s/bin/performer %s%s")
      :format(support.build, FOLDER, words))
  end

  for _, name in ipairs(experiments()) do
    it(name .. " runs small, draws, and ends in a verdict", function()
      local code, out, err = run(("%s.lua --smoke --out '%s'"):format(name, folder))
      assert.equal(0, code, err)
      assert.truthy(out:find("made-up", 1, true), out)
      assert.truthy(out:find("\n| %-%-%-"), out)
      local last = out:match "([^\n]*)\n$"
      assert.truthy(last:find "^verdict: .-beat.- its baseline: ", last)
      assert.falsy(out:find "nan" or out:find "%-?inf%f[%A]", out)
      assert.equal(out, support.read(("%s/%s.md"):format(folder, name)))
      local drawn = support.read(("%s/%s.svg"):format(folder, name))
      assert.truthy(drawn:find "^<svg" and drawn:find "</svg>\n$")
    end)
  end

  it("says what is missing in its full size, and what a mistyped option is like", function()
    local code, _, err = run "proteins.lua"
    assert.equal(2, code)
    assert.truthy(err:find("proteins: give proteins (or --smoke or --quick", 1, true), err)
    code, _, err = run "proteins.lua --quik"
    assert.equal(2, code)
    assert.truthy(err:find("did you mean '--quick'?", 1, true), err)
    code, _, err = run "proteins.lua --smoke --data /no/such.fasta"
    assert.equal(1, code)
    assert.truthy(err:find("/no/such.fasta: No such file or directory", 1, true), err)
  end)

  it("pictures reads .npy and IDX files, and says what else a file is", function()
    local pixels = {}
    for i = 1, 5 * 4 * 6 do pixels[i] = string.char(i * 7 % 256) end
    pixels = table.concat(pixels)
    local head = "{'descr': '|u1', 'fortran_order': False, 'shape': (5, 4, 6), }"
    head = head .. (" "):rep(127 - 10 - #head) .. "\n"
    local npy = "\x93NUMPY\1\0" .. string.pack("<I2", #head) .. head
    local function told(name, bytes)
      support.write(folder .. "/" .. name, bytes)
      return run(("pictures.lua --smoke --data '%s/%s' --out '%s'"):format(folder, name, folder))
    end
    local _, out = told("five.npy", npy .. pixels)
    assert.truthy(out:find("4 pictures of 4 x 6 x 1, rows of 24", 1, true), out)
    local idx = "\0\0\8\3" .. string.pack(">I4I4I4", 5, 4, 6)
    local _, again = told("five-idx3-ubyte", idx .. pixels)
    assert.equal(out:match "| softmax +| [%d.]+", again:match "| softmax +| [%d.]+")
    local code, _, err = told("floats.npy", (npy:gsub("|u1", "<f4")) .. pixels:rep(4))
    assert.equal(1, code)
    assert.truthy(err:find("holds no uint8 array", 1, true), err)
    code, _, err = told("cut.npy", npy .. pixels:sub(1, 50))
    assert.equal(1, code)
    assert.truthy(err:find("is 120 bytes, behind the header there are 50", 1, true), err)
    code, _, err = told("text.npy", "no pictures")
    assert.equal(1, code)
    assert.truthy(err:find("is neither .npy nor IDX", 1, true), err)
  end)

  it("writes PNG as zlib reads it", function()
    package.path = FOLDER .. "?.lua;" .. package.path
    local png = require "png"
    local function hex(c) return ("%02x"):format(c:byte()) end
    -- What Python's zlib and binascii make of it.
    assert.equal("89504e470d0a1a0a0000000d4948445200000002000000010800000000d1492056"
      .. "0000000e494441547801010300fcff0000ff01020100b7012ef70000000049454e44ae426082",
      (png.encode(2, 1, "\0\255"):gsub(".", hex)))
    local width, height, bytes = png.grid({ "abcd", "efgh", "ijkl" }, 2, 2, 2)
    assert.same({ 6, 6 }, { width, height })
    assert.equal("ab\x80\x80ef" .. "cd\x80\x80gh" .. ("\x80"):rep(12) .. "ij\x80\x80\x80\x80"
      .. "kl\x80\x80\x80\x80", bytes)
  end)

  it("transfer's weights are the Transformer's own, and listops counts as the arena", function()
    local text = support.read(FOLDER .. "listops.lua")
    local values = load(text:match "(local VALUES = .-\n}\n)" .. "return VALUES")()
    assert.equal(2, values["[MIN"] { 4, 2, 9 })
    assert.equal(9, values["[MAX"] { 4, 2, 9 })
    assert.equal(4, values["[MED"] { 9, 4, 2 })
    assert.equal(5, values["[MED"] { 9, 4, 7, 2 }) -- the whole part of 5.5
    assert.equal(5, values["[SM"] { 4, 2, 9 })
    text = support.read(FOLDER .. "transfer.lua")
    local source = text:match "(local function take_weights.-\nend\n)"
    local pf = require "performer"
    local environment = setmetatable({ pf = pf, kit = { need = assert } }, { __index = _G })
    local take = load(source .. "return take_weights", "transfer", "t", environment)()
    local function model(attention)
      return pf.nn.performer { vocab = 9, dim = 8, layers = 2, heads = 2, causal = true,
                               attention = attention, qk_norm = true }
    end
    local is_due = load(text:match "(local function is_due.-\nend\n)" .. "return is_due")()
    local early, late, size = {}, {}, { recover = 20, points = 4 }
    for step = 1, 20 do early[#early + 1] = is_due(size, step, 20) and step or nil end
    for step = 1, 200 do late[#late + 1] = is_due(size, step, 200) and step or nil end
    assert.same({ 5, 10, 15, 20 }, early)
    assert.same({ 5, 10, 15, 20, 25, 30, 35, 40, 50, 100, 150, 200 }, late) -- and the run's own
    local ids, teacher = pf.tensor({ { 1, 2, 3 } }, { dtype = "i32" }), model "exact"
    assert.bits_equal(teacher(ids), take(model "exact", teacher)(ids))
    local favor = take(model "favor", teacher)
    assert.bits_equal(teacher:tensors()["blocks.2.attention.qkv.weight"],
                      favor:tensors()["blocks.2.attention.qkv.weight"])
  end)

  it("its README tells of all of them", function()
    local readme = support.read(FOLDER .. "README.md")
    for _, name in ipairs(experiments()) do
      assert.truthy(readme:find(name .. ".lua", 1, true), name)
    end
    for target in readme:gmatch "%]%(([^)#]+)%)" do
      assert.truthy(target:find "^https?:" or lfs.attributes(FOLDER .. target, "mode"), target)
    end
  end)

  it("its kit counts right", function()
    support.write(folder .. "/count.lua", ([[
      package.path = "%s/%s?.lua;" .. package.path
      local kit = require "kit"
      local mean, deviation = kit.mean { 1, 2, 3, 6 }
      print(mean, ("%%.4f"):format(deviation), kit.spread({ 0.1, 0.3 }, 1, 100))
      print(table.concat(kit.ranks { 3, 1, 3, 2 }, " "))
      print(kit.pearson({ 1, 2, 3 }, { 2, 4, 6 }), kit.spearman({ 1, 2, 9 }, { -1, -5, -7 }))
    ]]):format(lfs.currentdir(), FOLDER))
    local _, out, err = support.performer(folder .. "/count.lua")
    assert.equal("3.0\t2.1602\t20.0 ± 14.1\n3.5 1.0 3.5 2.0\n1.0\t-1.0\n", out, err)
  end)
end)
