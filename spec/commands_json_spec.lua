-- commands_json_spec.lua - what train, eval, generate, inspect and bench print for programs:
-- the fields of --json, their types and what they must agree with.
local pf = require "performer"
local cli = require "kit.cli"
local commands = require "spec.support.commands"
local support = require "spec.support"

local assert_fields, good, log_of = commands.assert_fields, commands.good, commands.log_of
local path, performer, records = commands.path, commands.performer, commands.records
local train = commands.train

local ROOMS = { lsh = 4, routing = 2 } -- numbers of buckets a row that they keep, at most
local KINDS = {} -- their names, in order
for _, kind in ipairs(pf.kinds()) do
  if not kind.edges then KINDS[#KINDS + 1] = kind.name end
end

describe("the commands", function()
  local book

  setup(function()
    commands.start()
    book = commands.train_book()
  end)

  teardown(commands.stop)

  describe("--json", function()
    it("of train prints the log and nothing else", function()
      local run, out, err = train("json", ("--data %s --steps 20 --threads 1 --json"):format(
        path "p.fasta"))
      local list = records(out)
      assert.are.equal(support.read(run .. "/log.jsonl"), out)
      for i = 1, #list - 1 do
        assert_fields(list[i], { step = "integer", loss = "number", lr = "number",
          tokens_per_s = "number", seconds = "number", bytes_peak = "integer" })
      end
      assert_fields(list[#list], { final = "boolean", train_loss = "number", valid_loss = "number",
        valid_perplexity = "number", valid_accuracy = "number", baseline_perplexity = "number",
        tokens = "integer", params = "integer" })
      assert.is_true(math.abs(math.exp(list[#list].valid_loss) / list[#list].valid_perplexity - 1)
        < 1e-9)
      assert.is_truthy(err:find "training tokens")
    end)

    it("of eval: the file, and each sequence", function()
      local run = path "json"
      local fields = { loss = "number", perplexity = "number", accuracy = "number",
                       tokens = "integer", tokens_per_s = "number" }
      local whole = records((good(("eval --checkpoint %s --data %s --json"):format(run,
        path "p.fasta"))))
      assert.are.equal(1, #whole)
      assert_fields(whole[1], fields)
      local each = records((good(("eval --checkpoint %s --data %s --per-sequence --json"):format(
        run, path "p.fasta"))))
      fields.name = "string"
      local loss, tokens = 0, 0
      for _, record in ipairs(each) do
        assert_fields(record, fields)
        loss, tokens = loss + record.loss * record.tokens, tokens + record.tokens
      end
      assert.are.equal(80, #each)
      assert.are.equal("seq1", each[1].name)
      assert.is_true(tokens >= whole[1].tokens) -- a row's last token has no target
      assert.is_true(math.abs(loss / tokens - whole[1].loss) < 0.2)
    end)

    it("of eval --per-sequence is the same for a text that goes through in pieces", function()
      local text = support.read(path "t.txt")
      assert.is_true(#text > 2 * 4096)
      local each = records((good(("eval --checkpoint %s --data %s --per-sequence --json"):format(
        book, path "t.txt"))))
      assert.are.equal(#text - 1, each[1].tokens)
      local model = assert(pf.checkpoint.model(book))
      local ids = pf.tokenizer.byte():encode(text)
      local n = ids:numel()
      local logits = model(ids:slice(1, 1, n - 1):reshape(1, -1))
      local loss = logits:cross_entropy(ids:slice(1, 2, n):reshape(1, -1)):item()
      assert.is_true(math.abs(loss - each[1].loss) < 1e-4)
    end)

    it("of generate is UTF-8, whatever the model writes", function()
      local record = records((good(("generate --checkpoint %s --prompt 'the ' --tokens 40 "
        .. "--temperature 3 --seed 5 --json"):format(book))))[1]
      assert_fields(record, { text = "string", tokens = "integer", tokens_per_s = "number",
                              state_bytes = "integer" })
      assert.are.equal(40, record.tokens)
      assert.is_truthy(utf8.len(record.text))
      assert.are.equal("the ", record.text:sub(1, 4))
      local plain = good(("generate --checkpoint %s --prompt 'the ' --tokens 40 --temperature 3 "
        .. "--seed 5")
        :format(book))
      assert.are.equal(record.text, cli.utf8((plain:gsub("\n$", ""))))
      local again = records((good(("generate --checkpoint %s --tokens 30 --temperature 0 --json")
        :format(book))))[1]
      assert.are.equal(again.text, records((good(("generate --checkpoint %s --tokens 30 "
        .. "--temperature 0 --seed 9 --json"):format(book))))[1].text)
    end)

    it("replaces what is not UTF-8", function()
      for text, wanted in pairs {
        ["plain"] = "plain", ["\xff"] = "\u{FFFD}", ["a\xc3"] = "a\u{FFFD}",
        ["\xc3\xa4\x80b"] = "ä\u{FFFD}b", ["\xed\xa0\x80"] = "\u{FFFD}\u{FFFD}\u{FFFD}",
        ["a\0b"] = "a\u{FFFD}b", [""] = "",
      } do
        assert.are.equal(wanted, cli.utf8(text))
      end
      assert.are.equal('{"a":["\u{FFFD}"]}', cli.json { a = { "\xfe" } })
    end)

    it("of inspect tells what the folder holds", function()
      local record = records((good(("inspect %s --json"):format(book))))[1]
      assert_fields(record, { tensors = "table", params = "integer", bytes = "integer",
                              metadata = "table" })
      local bytes = 0
      for _, tensor in ipairs(record.tensors) do
        assert_fields(tensor, { name = "string", dtype = "string", shape = "table",
                                bytes = "integer" })
        bytes = bytes + tensor.bytes
      end
      assert.are.equal(record.bytes, bytes)
      assert.are.equal(log_of(book)[#log_of(book)].params, record.params)
      local file = records((good(("inspect %s/step-40/model.safetensors --json"):format(book))))[1]
      assert.are.same(record.tensors, file.tensors)
    end)

    local shape = { B = "integer", H = "integer", L = "integer", d = "integer", m = "integer",
                    C = "integer", causal = "boolean", kernel = "string", threads = "integer",
                    cpu = "string", blas = "string" }

    local function with(more)
      local fields = {}
      for name, kind in pairs(shape) do fields[name] = kind end
      for name, kind in pairs(more) do fields[name] = kind end
      return fields
    end

    local function bench(arguments)
      return records((good(("bench %s --json --repeats 1"):format(arguments))))
    end

    it("of bench attention: each attention beside the GEMM rate, and what it keeps", function()
      for _, causal in ipairs { "", "--causal" } do
        local list = bench("attention --length 512 --heads 2 --head-dim 32 --features 64 "
          .. causal)
        local names = {}
        for i, r in ipairs(list) do
          names[i] = r.which
          assert_fields(r, with { which = "string", forward_ms = "number",
            forward_backward_ms = "number", gflops = "number", gemm_gflops = "number",
            fraction_of_gemm = "number", fraction_of_gemm_backward = "number",
            bytes_saved = "integer", bytes_peak = "integer",
            ratio_to_full = r.causal and "number" or nil })
          assert.equal(r.causal, r.ratio_to_full ~= nil)
          local rows = r.B * r.H * r.L
          local qkvo = 4 * rows * 4 * r.d
          if r.which == "identity" then
            assert.is_true(r.bytes_saved <= qkvo)
          else -- q, k, v, out and at most two numbers a row, and those of rooms
            local numbers = 2 + (ROOMS[r.which] or 0)
            assert.is_true(r.bytes_saved > qkvo and r.bytes_saved <= qkvo + numbers * 4 * rows,
              ("%s saves %d beyond q, k, v, out, for %d rows"):format(r.which,
                r.bytes_saved - qkvo, rows))
          end
          assert.is_true(r.bytes_peak >= qkvo)
        end
        assert.are.same(KINDS, names)
      end
    end)

    it("of bench block, train, generate, gemm and features", function()
      local small = " --heads 2 --head-dim 16 --features 32 --layers 1"
      local block = bench("block --length 64" .. small)
      assert.are.equal(#KINDS, #block)
      for _, r in ipairs(block) do
        assert_fields(r, with { which = "string", forward_ms = "number",
          forward_backward_ms = "number", ratio_to_identity = "number", bytes_peak = "integer" })
        assert.is_true(r.which ~= "identity" or r.ratio_to_identity == 1)
      end
      local step = bench("train --length 64" .. small)[1]
      assert_fields(step, with { tokens_per_s = "number", flops_per_token = "integer",
                                 fraction_of_gemm = "number", lua_share = "number" })
      assert.is_true(step.lua_share >= 0 and step.lua_share < 1)
      -- 6 flops for each of 4 D^2 + 8 D^2 weights and the head's D V, and attention's.
      assert.are.equal(6 * (12 * 32 * 32 + 32 * 256) + 2 * (8 * 32 * 16 + 12 * 32 * 17),
                       step.flops_per_token)
      local generated = bench("generate --length 8 --tokens 4" .. small)[1]
      assert_fields(generated, with { prompt = "integer", tokens_per_s = "number",
        state_bytes = "integer", weight_bytes = "integer", bandwidth_gb_s = "number",
        fraction_of_bandwidth = "number" })
      local served = bench("generate --length 8 --tokens 4 --batch 3" .. small)[2]
      assert_fields(served, { case = "string", prompt = "integer", B = "integer",
        tokens_per_s = "number", state_bytes = "integer", time_to_lockstep = "number" })
      assert.are.same({ "served", 3 }, { served.case, served.B })
      assert.are.equal(3 * generated.state_bytes, served.state_bytes)
      local features = bench "features --head-dim 16 --features 32 --draws 2000 --norm 0.5"
      for _, r in ipairs(features) do
        assert_fields(r, { features = "integer", norm = "number", predicted_rel_mse = "number",
                           measured_rel_mse = "number", bias_sigma = "number" })
        assert.is_true(r.predicted_bias ~= 0 or
          math.abs(r.bias_sigma) < 5 and math.abs(r.bias_sigma_negative) < 5)
      end
      local plain = features[1]
      assert.are.equal("iid", plain.rows)
      assert.is_true(math.abs(plain.measured_rel_mse / plain.predicted_rel_mse - 1) < 0.25)
      assert.is_true(features[2].measured_rel_mse < 1.1 * plain.predicted_rel_mse)
      local gemm = bench "gemm --heads 1 --head-dim 16 --features 32"
      assert_fields(gemm[1], { n = "integer", gflops = "number", threads = "integer" })
      assert.are.equal(512, gemm[1].n)
    end)

    it("of bench at several lengths, and the same figures as a table", function()
      local small = " --heads 1 --head-dim 16 --features 32 --repeats 1 "
      local list = bench("attention --length 64,1k --which favor" .. small)
      assert.are.same({ 64, 1024 }, { list[1].L, list[2].L })
      assert_fields(list[2], { forward_us_per_token = "number",
                               forward_backward_us_per_token = "number" })
      local out = good("bench block --length 32,64 --causal" .. small)
      local lines = {}
      for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
      assert.are.equal(2 + 2 * #KINDS, #lines)
      assert.matches("^bench block: 1 thread, .*, B 1, H 1, d 16, m 32, kernel softmax, causal$",
                     lines[1])
      assert.matches("^attention +length +forward ms +fwd%+bwd ms +x identity +peak$", lines[2])
      assert.matches("^favor +32 .* [KM]iB$", lines[3])
      assert.matches("\nidentity +64 .* 1%.000 ", out)
      local code, _, err = performer "bench attention --length 4x"
      assert.are.equal(2, code)
      assert.matches("'4x' is no length", err)
    end)

    it("of bench kinds: what each costs, and what it learns in equal steps", function()
      local picture = path "kinds.svg"
      local list = bench("kinds --length 64,32 --heads 2 --head-dim 16 --features 32 --causal "
        .. "--steps 4 --task-length 32 --task-dim 16 --task-layers 1 --keys 4 --data "
        .. path "t.txt" .. " --out " .. picture)
      local costs, learned = {}, {}
      for _, r in ipairs(list) do
        assert.equal("kinds", r.case)
        if r.task then
          assert_fields(r, with { which = "string", task = "string", loss = "number",
            accuracy = "number", train_loss = "number", baseline_loss = "number",
            step_ms = "number", tokens_per_s = "number", bytes_peak = "integer",
            steps = "integer", params = "integer", layers = "integer", D = "integer",
            accuracy_far = r.task == "recall" and "number" or nil })
          assert.equal(4, r.curve[#r.curve][1])
          assert.equal(r.loss, r.curve[#r.curve][2])
          learned[#learned + 1] = r.task .. " " .. r.which
        else
          assert_fields(r, with { which = "string", forward_ms = "number",
            forward_backward_ms = "number", flops_per_token = "number", gflops = "number",
            gemm_gflops = "number", fraction_of_gemm = "number",
            fraction_of_gemm_backward = "number", bytes_saved = "integer",
            bytes_peak = "integer" })
          costs[#costs + 1] = r.L .. " " .. r.which
        end
      end
      local wanted = { costs = {}, learned = {} }
      for _, L in ipairs { 32, 64 } do
        for _, name in ipairs(KINDS) do table.insert(wanted.costs, L .. " " .. name) end
      end
      for _, task in ipairs { "recall", "text" } do
        for _, name in ipairs(KINDS) do table.insert(wanted.learned, task .. " " .. name) end
      end
      assert.same(wanted.costs, costs)
      assert.same(wanted.learned, learned)
      local drawn = support.read(picture)
      for _, name in ipairs(KINDS) do
        assert.equal(4, select(2, drawn:gsub(">" .. name .. "</text>", "")))
      end
      local out, err = good("bench kinds --which exact --length 16 --repeats 1 --steps 0")
      assert.equal(3, select(2, out:gsub("\n", "")), err)
    end)

    it("of bench report: pictures, numbers, and what they were measured with", function()
      local out = path "report"
      local record = bench("report --length 32,64 --heads 1 --head-dim 8 --features 16 --draws 20"
        .. " --out " .. out)[1]
      assert_fields(record, { case = "string", out = "string", seconds = "number" })
      local points = {}
      for _, r in ipairs(records(support.read(out .. "/report.jsonl"))) do
        points[r.case] = (points[r.case] or 0) + 1
      end
      assert.are.equal((#KINDS + 1) * 2, points.attention) -- linear attention is full and causal
      assert.are.equal(7 * 2 * 3, points.features)
      local text = support.read(out .. "/REPORT.md")
      for _, name in ipairs(record.files) do
        if name:find "%.svg$" then
          assert.is_truthy(text:find("](" .. name .. ")", 1, true))
          assert.matches("^<svg .*</svg>\n$", support.read(out .. "/" .. name))
        end
      end
      assert.matches("processor: %S.*performer bench report .*%-%-length 32,64", text)
      local code, _, err = performer "bench report"
      assert.are.equal(2, code)
      assert.matches("needs %-%-out DIR", err)
    end)
  end)
end)
