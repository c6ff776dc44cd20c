// Use a playground as a person does, and write down what happened: node playground.mjs CHROMIUM ADDRESS IMAGE LATENTS RESULT.json
import { readFile, writeFile } from "node:fs/promises";
import { open } from "./browser.mjs";

const [chromium, address, image, latents, result] = process.argv.slice(2);
const { browser, page, record } = await open(chromium, address);
const state = () => page.evaluate(async () => [window.playground.latents(), window.playground.pixels()]);
const settled = () => page.evaluate(async () => window.playground.setLatents(window.playground.latents()));
const shown = (id) => page.evaluate((name) => document.getElementById(name).toDataURL(), id);
try {
  await page.evaluate(() => window.playground.ready);
  record.decoded = [];
  for (const vector of JSON.parse(latents)) {
    await page.evaluate((values) => window.playground.setLatents(values), vector);
    record.decoded.push((await state())[1]);
  }
  record.sliders = await page.locator("#sliders input").evaluateAll((all) => all.map(({ id, min, max }) => [id, Number(min), Number(max)]));

  // Each control changes the picture, by keyboard alone.
  record.changed = {};
  const act = async (name, action) => {
    const before = await shown("picture");
    await action();
    await settled();
    record.changed[name] = before !== (await shown("picture"));
  };
  await act("reset", () => page.locator("#reset").press("Enter"));
  await act("slider", () => page.locator("#sliders input").first().press("PageUp"));
  await act("random", () => page.locator("#random").press("Enter"));
  await act("pad", () => page.locator("#pad").press("Shift+ArrowLeft"));
  await act("interpolation", () => page.locator("#mix").press("PageUp"));
  await act("sample", () => page.locator("#grid button").nth(3).press("Enter"));
  await act("end", () => page.locator("#show-a").press("Enter"));
  await page.locator("#source").selectOption("around");
  const grid = () => page.evaluate(() => document.querySelector("#grid canvas").toDataURL());
  await settled();
  const before = await grid();
  await page.locator("#random").click();
  await settled();
  record.changed.grid = before !== (await grid());

  const download = page.waitForEvent("download");
  await page.locator("#download").click();
  record.png = (await readFile(await (await download).path())).toString("base64");
  record.picture = await state();

  if (await page.locator("#encode").isVisible()) {
    await page.locator("#file").setInputFiles(image);
    await page.waitForFunction(() => /is encoded/.test(document.getElementById("encoded").textContent));
    [record.encoded] = await state();
    await page.locator("#random").click();
    const content = (await readFile(image)).toString("base64");
    const transfer = await page.evaluateHandle((text) => {
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
      return data;
    }, content);
    await page.dispatchEvent("body", "drop", { dataTransfer: transfer });
    await page.waitForFunction(() => /^dropped.png is encoded/.test(document.getElementById("encoded").textContent));
    [record.dropped] = await state();
  }
  record.unnamed = await page.locator("button, input, select, canvas:not([aria-hidden])").evaluateAll((all) =>
    all.filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.[0]?.textContent.trim() || e.closest("button"))).map((e) => e.outerHTML));
  await page.setViewportSize({ width: 390, height: 844 });
  record.overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
} finally {
  await browser.close();
}
await writeFile(result, JSON.stringify(record));
