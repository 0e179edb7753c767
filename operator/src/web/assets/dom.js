// Describes the page as plain objects and makes the document equal to the description.
//
// `h()` and `s()` describe elements; `patch()` compares with what is there and changes only what differs, so that
// focus, selection, scroll positions and open menus survive four updates per second. Text goes in as text nodes only:
// nothing that the agent sends is ever read as HTML.

const SVG = 'http://www.w3.org/2000/svg';

/** Describes an HTML element. `props.key` ties it to the same element across updates. */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, children: flat(children), svg: false };
}

/** Describes an SVG element. */
export function s(tag, props, ...children) {
  return { tag, props: props ?? {}, children: flat(children), svg: true };
}

function flat(children) {
  const out = [];
  for (const child of children) {
    if (Array.isArray(child)) out.push(...flat(child));
    else if (child !== null && child !== undefined && child !== false && child !== '') out.push(child);
  }
  return out;
}

/** Makes the children of `parent` equal to `children`. */
export function patch(parent, children) {
  const wanted = flat([children]);
  const keys = new Set();
  for (const item of wanted) if (keyOf(item) !== undefined) keys.add(keyOf(item));
  const keyed = new Map();
  // What goes, goes first: what stays then need not be moved around it, which would cost it the focus.
  for (const node of [...parent.childNodes]) {
    if (node.batonKey === undefined) continue;
    if (keys.has(node.batonKey)) keyed.set(node.batonKey, node);
    else node.remove();
  }
  let at = parent.firstChild;
  for (const item of wanted) {
    let node = keyOf(item) === undefined ? at : keyed.get(keyOf(item));
    if (keyOf(item) === undefined) while (node && node.batonKey !== undefined) node = node.nextSibling;
    if (!node || !same(node, item)) {
      parent.insertBefore(create(item), at);
      continue;
    }
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
    update(node, item);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function keyOf(item) {
  return typeof item === 'object' ? item.props.key : undefined;
}

function same(node, item) {
  if (typeof item !== 'object') return node.nodeType === Node.TEXT_NODE;
  return node.nodeType === Node.ELEMENT_NODE && node.localName === item.tag && node.batonKey === item.props.key;
}

function create(item) {
  if (typeof item !== 'object') return document.createTextNode(String(item));
  const node = item.svg ? document.createElementNS(SVG, item.tag) : document.createElement(item.tag);
  if (item.props.key !== undefined) node.batonKey = item.props.key;
  update(node, item);
  return node;
}

function update(node, item) {
  if (typeof item !== 'object') {
    const text = String(item);
    if (node.data !== text) node.data = text;
    return;
  }
  const before = node.batonProps ?? {};
  const { props } = item;
  for (const name in before) if (!(name in props)) set(node, name, undefined, before[name]);
  // Children first: a select can only take a value that it has.
  if (!props.opaque) patch(node, item.children);
  for (const name in props) if (props[name] !== before[name] || name === 'style' || name === 'value') {
    set(node, name, props[name], before[name]);
  }
  node.batonProps = props;
}

function set(node, name, value, before) {
  if (name === 'key' || name === 'opaque') return;
  if (name === 'ref') {
    if (value && value !== before) value(node);
  } else if (name.startsWith('on')) {
    // As a property: the policy forbids handlers in attributes.
    node[name] = value ?? null;
  } else if (name === 'style') {
    // Through the object model: the policy forbids style attributes.
    for (const rule in before ?? {}) if (!value || !(rule in value)) node.style.removeProperty(rule);
    for (const rule in value ?? {}) {
      if (node.style.getPropertyValue(rule) !== String(value[rule])) node.style.setProperty(rule, value[rule]);
    }
  } else if (name === 'value' || name === 'checked' || name === 'open' || name === 'indeterminate') {
    if (node[name] !== value) node[name] = value ?? '';
  } else if (value === undefined || value === null || value === false) {
    node.removeAttribute(name);
  } else {
    const text = value === true ? '' : String(value);
    if (node.getAttribute(name) !== text) node.setAttribute(name, text);
  }
}

/** Runs `work` once before the next frame, however often it is asked for. */
export function coalesce(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}
