/** Light or dark: as the system has it, until the toggle says otherwise, which is remembered. */
import { storage } from "./storage.js";

const toggle = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const settings = storage("localStorage");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

function dress(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  toggle.ariaPressed = String(isDark());
}

toggle.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  const usual = theme === (dark.matches ? "dark" : "light");
  if (usual) settings.removeItem("corerec-theme");
  else settings.setItem("corerec-theme", theme);
  dress(usual ? null : theme);
});
dark.addEventListener("change", () => dress(document.documentElement.dataset.theme));
dress(settings.getItem("corerec-theme"));
