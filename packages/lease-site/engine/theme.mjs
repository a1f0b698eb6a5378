/** The default theme, with two rules of our own. */
import theme from 'vitepress/theme'
import './style.css' // oxlint-disable-line import/no-unassigned-import -- styles have no names

// oxlint-disable-next-line import/no-default-export -- VitePress wants it so
export default theme
