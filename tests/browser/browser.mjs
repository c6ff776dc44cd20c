// Starts the browser and keeps a record of what a page asked for and complained of.
import { chromium } from "playwright-core";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export async function open(executablePath, address, options = {}) {
  // Starts with a profile folder of its own, which it removes in the end.
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options });
  const record = { complaints: [], requests: [] };
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && record.complaints.push(message.text()));
  page.on("pageerror", (error) => record.complaints.push(String(error)));
  page.on("request", (request) => record.requests.push(request.url().slice(0, 200)));
  await page.goto(address);
  return { browser, page, record };
}
