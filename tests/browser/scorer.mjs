// Open the page that scores images, and write down its outputs: node scorer.mjs CHROMIUM ADDRESS RESULT.json
import { writeFile } from "node:fs/promises";
import { open } from "./browser.mjs";

const [chromium, address, result] = process.argv.slice(2);
const { browser, page, record } = await open(chromium, address);
try {
  await page.waitForFunction(() => document.documentElement.dataset.found, undefined, { timeout: 60000 });
  record.found = JSON.parse(await page.evaluate(() => document.documentElement.dataset.found));
} finally {
  await browser.close();
}
await writeFile(result, JSON.stringify(record));
