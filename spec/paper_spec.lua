-- paper_spec.lua - the experiments of examples/paper run: each of them with --smoke, on data that
-- it makes up, prints a table, draws its picture and says in the last line whether it beat its
-- baseline. What they find is no matter of a spec; that their arithmetic is right is.
local lfs = require "lfs"
local support = require "spec.support"

local FOLDER = "examples/paper/"

local function experiments()
  local names = {}
  for name in lfs.dir(FOLDER) do
    local base = name:match "^(.*)%.lua$"
    if base and base ~= "kit" and base ~= "png" then names[#names + 1] = base end
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
