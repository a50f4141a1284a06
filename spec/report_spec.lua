-- report_spec.lua - a run as one page: it fetches nothing and runs nothing, names out of files are
-- text in it, every picture says in words what it shows, and its figures are those of the log. And
-- the pieces: maps of attention against the layers that they are of, bitmaps, base64.
local attention_maps = require "kit.attention_maps"
local commands = require "spec.support.commands"
local html = require "kit.html"
local pf = require "performer"
local support = require "spec.support"

local copy, good, log_of, path = commands.copy, commands.good, commands.log_of, commands.path
local performer, train = commands.performer, commands.train

-- ---- pieces ----

describe("a page", function()
  it("has names and texts as text", function()
    assert.equal("&lt;b&gt;&amp;&quot;&#39;", html.escape "<b>&\"'")
    assert.equal("a\u{FFFD}[31m\n\tb\u{FFFD}\u{FFFD}", html.escape "a\27[31m\n\tb\0\xff")
    local page = html.page("<x>", "", { { id = 'a"b', title = "</h2>", body = "" } })
    assert.is_nil(page:find("<x>", 1, true))
    assert.equal(1, select(2, page:gsub("</h2>", "")))
    assert.is_truthy(page:find('id="a&quot;b"', 1, true))
  end)

  it("has base64 as RFC 4648 has it", function()
    for text, wanted in pairs { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==",
                                fooba = "Zm9vYmE=", foobar = "Zm9vYmFy",
                                ["\xff\xfe\xfd"] = "//79" } do
      assert.equal(wanted, html.base64(text))
    end
  end)

  it("has bitmaps of a pixel a number, the first row on top", function()
    local rows = { { 0, 1, 0.5 }, { 1, 0, 2 } }
    local bytes = html.bitmap(rows)
    local kind, size, _, _, from = string.unpack("<c2I4I2I2I4", bytes)
    assert.same({ "BM", #bytes }, { kind, size })
    local head, width, height, planes, bits, packed = string.unpack("<I4i4i4I2I2I4", bytes, 15)
    assert.same({ 40, 3, 2, 1, 8, 0 }, { head, width, height, planes, bits, packed })
    assert.equal(from + 2 * 4, #bytes) -- rows end at a multiple of 4 bytes
    assert.same({ 255, 0, 255, 0 }, { bytes:byte(from + 1, from + 4) }) -- from the bottom up
    assert.same({ 0, 255, 128, 0 }, { bytes:byte(from + 5, from + 8) })
    local function light(index) -- of the palette: blue, green, red
      local b, g, r = bytes:byte(55 + 4 * index, 57 + 4 * index)
      return b + g + r
    end
    assert.equal(3 * 255, light(0))
    for i = 1, 255 do assert.is_true(light(i) <= light(i - 1)) end
  end)
end)

-- ---- maps ----

describe("a map of attention", function()
  local MODEL = { vocab = 20, dim = 16, layers = 2, heads = 2, length = 32 }

  local function model_of(more)
    pf.seed(5)
    local options = {}
    for name, value in pairs(MODEL) do options[name] = value end
    for name, value in pairs(more) do options[name] = value end
    return pf.nn.performer(options)
  end

  --- The map's weights times values, through the layer's last product, is what the layer gives.
  local function check(more)
    local model = model_of(more)
    local ids = pf.tensor({ { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5 } }, { dtype = "i32" })
    local blocks
    for _, child in ipairs(model:children()) do
      if child:type() == "chain" then blocks = child:children() end
    end
    local weights, _, sides = assert(attention_maps.of_block(blocks[2], model:hidden(ids, nil, 1)))
    local H, L = weights:size(1), weights:size(2)
    local mixed = weights:reshape(1, H, L, L):matmul(sides.v):permute(1, 3, 2, 4):reshape(1, L, -1)
    local made = sides.layer:children()[2](mixed)
    local given = sides.layer(sides.input)
    local gap = (made - given):abs():max():item()
    assert.is_true(gap <= 2e-5 * given:abs():max():item(), ("off by %g"):format(gap))
    local sums = weights:sum(-1):reshape(-1):totable()
    for _, sum in ipairs(sums) do assert.is_true(math.abs(sum - 1) < 1e-5) end
  end

  it("is what the layer does", function()
    for _, causal in ipairs { true, false } do
      check { causal = causal, attention = "exact" }
      check { causal = causal, attention = "exact", qk_norm = true, conv = causal and 4 or 0 }
      check { causal = causal, kernel = { name = "relu" }, qk_norm = true }
    end
    check { causal = true, attention = "exact", decay = 1 }
    check { causal = true, kernel = { name = "relu" }, decay = 0.7, positions = "sinusoidal" }
  end)

  it("begins where the first block does, n-gram memory and all", function()
    local model = model_of { causal = true, attention = "exact",
                             ngrams = { shortest = 2, longest = 3, buckets = 64 } }
    local ids = pf.tensor({ 3, 1, 4, 1, 5, 9, 2, 6 }, { dtype = "i32" })
    local list = assert(attention_maps.of(model, ids))
    assert.equal(2, #list)
    local first
    for _, child in ipairs(model:children()) do
      if child:type() == "chain" then first = child:children()[1] end
    end
    -- Block 1 of what was taken for its input gives what the model says stands behind it.
    local embedding, ngrams
    for _, child in ipairs(model:children()) do
      if child:type() == "embedding" then embedding = child end
      if child:type() == "ngrams" then ngrams = child end
    end
    local row = ids:reshape(1, 8)
    local behind = first(embedding(row) + ngrams(row))
    assert.is_true((behind - model:hidden(row, nil, 1)):abs():max():item() < 1e-5)
  end)

  it("says why there is none", function()
    local ids = pf.tensor({ 1, 2, 3 }, { dtype = "i32" })
    for why, more in pairs {
      ["weights of sliding attention are not told"] = { attention = "sliding" },
      ["not of the pre%-norm form"] = { residual = "post" }, ["reversible"] = { reversible = true },
    } do
      more.causal = true
      local list, message = attention_maps.of(model_of(more), ids)
      assert.is_nil(list)
      assert.matches(why, message)
    end
    local _, message = attention_maps.of(pf.nn.linear { from = 2, to = 2 }, ids)
    assert.equal("the model is no plain performer", message)
  end)
end)

-- ---- the command ----

describe("report", function()
  local book

  setup(function()
    commands.start()
    book = commands.train_book()
  end)
  teardown(commands.stop)

  local function page_of(run, more)
    local _, told = good(("report %s --threads 1 --tokens 20 --out %s %s"):format(run,
      path "r.html", more or ""))
    return support.read(path "r.html"), told
  end

  local VOID = { meta = true, img = true, rect = true, path = true, circle = true, br = true }

  --- Every tag that opens closes, in its order; nothing is fetched, and nothing is run.
  local function check_page(page)
    local open, ids = {}, {}
    page = page:gsub("<style>.-</style>", "")
    for close, name, rest in page:gmatch "<(/?)([%a][%w]*)([^>]*)>" do
      if close == "/" then
        assert.equal(table.remove(open), name)
      elseif not VOID[name] then
        open[#open + 1] = name
      end
      assert.is_nil(rest:find "%son%a+=", rest)
      for attribute, value in rest:gmatch '([%w-]+)="([^"]*)"' do
        if attribute == "href" then assert.matches("^#", value) end
        if attribute == "src" then assert.matches("^data:image/bmp;base64,[%w+/=]+$", value) end
        if attribute == "id" then
          assert.is_nil(ids[value], value)
          ids[value] = true
        end
      end
      if name == "img" then assert.matches('alt="Attention of layer %d, head %d: ', rest) end
      assert.is_nil(({ script = 1, link = 1, iframe = 1, object = 1, form = 1 })[name:lower()])
    end
    assert.same({}, open)
    for at in page:gmatch 'href="#([^"]+)"' do assert.is_true(ids[at], at) end
    for at in page:gmatch "<figure><div([^>]*)>" do
      assert.matches('role="img".*aria%-label="Line chart', at)
    end
    assert.is_nil(page:find("url(", 1, true))
    assert.is_nil(page:gsub('xmlns="http://www.w3.org/2000/svg"', ""):find "https?://")
    assert.is_nil(page:find "\27")
  end

  it("is one page with the run's figures, samples, maps and error", function()
    local page, log = page_of(book, "--prompt 'the '"), log_of(book)
    check_page(page)
    local final = log[#log]
    for _, text in ipairs { ("%.4f"):format(final.valid_loss),
                            ("%.3f"):format(final.valid_perplexity),
                            ("%.2f %%"):format(100 * final.valid_accuracy),
                            "running mean of about 20 steps", "Sample 3, seed 3",
                            "behind the prompt &#39;the &#39;", "1,355 tokens that" } do
      assert.is_truthy(page:find(text, 1, true), text)
    end
    assert.equal(2, select(2, page:gsub("<img ", ""))) -- a layer of two heads
    assert.matches("As training saw it at step 40", page)
    assert.matches("blocks%.1%.attention, head 2", page)
    local head = log[#log - 1].attention[1]
    assert.is_truthy(page:find((">%.3g</td>"):format(head.predicted_rel_mse[2]), 1, true))
    for _, record in ipairs(log) do
      if record.valid_loss and not record.final then
        assert.is_truthy(page:find(("<td>%.4f"):format(record.valid_loss), 1, true))
      end
    end
    local sample = good(("generate --checkpoint %s --prompt 'the ' --tokens 20 --seed 2 "
      .. "--temperature 0.8 --json"):format(book))
    assert.is_truthy(page:find(html.escape(pf.json.decode(sample).text), 1, true))
  end)

  it("tells a command that makes the run again", function()
    local run = train("typed", ("--data %s --minutes 0.005 --threads 1 --seed 3 --json"):format(
      path "t.txt"))
    local page, log = page_of(run, "--samples 0"), log_of(run)
    local command = page:match "<h2 id=\"reproduce\">.-<pre[^>]*>performer ([^<]*)</pre>"
    assert.matches(("%%-%%-steps %d %%-%%-out runs/again$"):format(log[#log].steps), command)
    assert.is_nil(command:find "minutes" or command:find "json")
    local other = path "made-again"
    good((command:gsub("runs/again", other)))
    assert.equal(log[#log].steps, log_of(other)[#log_of(other)].steps)
    -- A run of so many steps is the same bits.
    page = page_of(book, "--samples 0")
    command = page:match "<h2 id=\"reproduce\">.-<pre[^>]*>performer ([^<]*)</pre>"
    good((command:gsub("runs/again", path "book-again")))
    assert.equal(commands.losses(book), commands.losses(path "book-again"))
  end)

  it("has names out of files as text", function()
    local run = copy(book, "odd")
    local name = path "o<script>alert(1)</script>'\"&"
    support.shell(("mkdir -p \"$(dirname %s)\" && mv %s %s"):format(
      "'" .. name:gsub("'", "'\\''") .. "'", run, "'" .. name:gsub("'", "'\\''") .. "'"))
    local log = support.read(name .. "/log.jsonl")
    support.write(name .. "/log.jsonl", (log:gsub('"path":"[^"]*"',
      '"path":"/x/<img src=x onerror=alert(1)>\\u001b[31m"')))
    local page = page_of("'" .. name:gsub("'", "'\\''") .. "'", "--samples 0 --prompt '</pre><b>'")
    check_page(page)
    assert.is_truthy(page:find("&lt;img src=x onerror=alert(1)&gt;", 1, true))
  end)

  it("tells what it can of runs that are unfinished, masked, or of a script", function()
    local cut = copy(book, "cut")
    support.write(cut .. "/log.jsonl",
      (support.read(book .. "/log.jsonl"):gsub("\n[^\n]*\n$", "\n")))
    local page = page_of(cut, "--samples 1")
    check_page(page)
    assert.matches("The run is not finished: step 40 of 40", page)
    assert.matches("The run has not ended", page)
    support.shell(("rm -r %s/step-* %s/LATEST %s/BEST"):format(cut, cut, cut))
    local told
    page, told = page_of(cut)
    check_page(page)
    assert.matches("The model can&#39;t be loaded: ", page)
    assert.matches("^report: the model can't be loaded, and is left out: ", told)
    assert.matches("No checkpoint tells its settings", page)

    local masked = train("masked", ("--data %s --steps 3 --bidirectional --attention relu "
      .. "--threads 1"):format(path "p.fasta"))
    page = page_of(masked, "--prompt MKVLA")
    check_page(page)
    assert.matches("it fills gaps", page)
    assert.matches("Its attention estimates nothing", page)
    assert.equal(2, select(2, page:gsub("<img ", "")))
  end)

  it("is written beside the log, or where --out says", function()
    local _, err = good(("report %s --samples 0"):format(book))
    assert.is_true(commands.exists(book .. "/report.html"))
    assert.matches("report.html", err)
    local told = pf.json.decode((good(("report %s --samples 0 --out %s --json"):format(book,
      path "j.html"))))
    assert.equal(#support.read(path "j.html"), told.bytes)
    assert.equal("result", told.sections[1])
    local code, _, why = performer(("report %s --samples 0 --out /nowhere/r.html"):format(book))
    assert.equal(1, code)
    commands.assert_sentence(why, "/nowhere/r.html: No such file or directory; check the path")
    code, _, why = performer(("report %s --out %s"):format(book, path "r.pdf"))
    assert.equal(2, code)
    commands.assert_sentence(why, "a report is written as HTML; say %-%-out .*r%.html %(a browser")
    assert.equal(1, (performer("report " .. path "t.txt")))
  end)
end)
