// Use the example page, and write down what it showed: node example.mjs CHROMIUM ADDRESS RESULT.json
import { writeFile } from "node:fs/promises";
import { open } from "./browser.mjs";

const [chromium, address, result] = process.argv.slice(2);
const { browser, page, record } = await open(chromium, address);
const shown = async (before) => {
  await page.waitForFunction((old) => (document.getElementById("image").dataset.latent ?? old) !== old, before, { timeout: 60000 });
  return page.evaluate(() => {
    const canvas = document.getElementById("image");
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
    return [JSON.parse(canvas.dataset.latent), Array.from(data)];
  });
};
try {
  record.shown = [await shown(null)];
  await page.locator("#random").click();
  record.shown.push(await shown(JSON.stringify(record.shown[0][0])));
  await page.locator("#sliders input").first().press("PageUp");
  record.shown.push(await shown(JSON.stringify(record.shown[1][0])));
} finally {
  await browser.close();
}
await writeFile(result, JSON.stringify(record));
